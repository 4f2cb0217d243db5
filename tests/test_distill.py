"""The whole way on a tiny collection: stages are done once, and the table adds up."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dear.data.catalogue import COLLECTIONS
from dear.data.collections import Collection
from dear.data.formats import read_run
from dear.distill import (
    CONTROL,
    FIRST,
    STUDENT,
    TEACHER,
    Distilled,
    _Distillation,
    _glimpse,
    _silent,
    _unwatched,
    agreement,
    distill,
)
from dear.errors import ConfigError, DataError
from dear.evaluate.compare import compare_all
from dear.evaluate.metrics import evaluate
from dear.rank.fusion import fuse_runs
from dear.rank.reranker import Reranker
from dear.recipes import DistillRecipe, load_distill_recipe
from dear.records import Passage, Query, Ranking
from tiny_training import save_bert


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_bert(tmp_path_factory.mktemp("base") / "bert")


@pytest.fixture
def recipe(base: str) -> DistillRecipe:
    return tiny(base)


def tiny(base: str, *changes: str) -> DistillRecipe:
    return load_distill_recipe(
        "laptop",
        [
            f'teacher.zero_shot="biencoder:{base}"',
            f'teacher.model.base="{base}"',
            f'student.model.base="{base}"',
            "teacher.train.groups_per_step=8",
            "student.groups.size=4",
            "depth=8",
            "test.top_k=6",
            "test.queries=10",
            *changes,
        ],
    )


def collection(judged: tuple[str, ...] = ("train", "test")) -> Collection:
    """24 train and 12 test queries; passage i answers query i, and shares words with others."""
    rng = random.Random(3)
    words = [f"w{i}" for i in range(40)]
    corpus, queries = {}, {}
    splits: dict[str, dict[str, dict[str, int]]] = {"train": {}, "test": {}}
    for i in range(36):
        topic = rng.sample(words, 4)
        corpus[f"p{i}"] = Passage(id=f"p{i}", text=" ".join(topic + rng.sample(words, 4)))
        queries[f"q{i}"] = Query(id=f"q{i}", text=" ".join(topic[:3]))
        splits["train" if i < 24 else "test"][f"q{i}"] = {f"p{i}": 1}
    return Collection.from_parts("tiny", corpus, queries, {name: splits[name] for name in judged})


def test_a_judged_collection_gives_four_rows_that_its_own_runs_confirm(
    recipe: DistillRecipe, tmp_path: Path
) -> None:
    tiny_collection = collection()
    found = distill(tiny_collection, recipe, tmp_path / "d")
    assert [row.system for row in found.rows] == [FIRST, TEACHER, STUDENT, CONTROL]
    judgements = tiny_collection.judgements("test")
    files = ("first-stage/test", "ranked/teacher", "ranked/student", "ranked/control")
    runs = [read_run(tmp_path / "d" / f"{file}.trec") for file in files]
    # as the student knew it
    runs[1] = fuse_runs(runs[1], runs[0], recipe.teacher.first_stage)
    measured = {}
    for row, run in zip(found.rows, runs, strict=True):
        measured[row.system] = evaluate(run, {q: judgements[q] for q in run}, ("nDCG@10",))
        assert row.score == pytest.approx(measured[row.system].means["nDCG@10"])
    # corrected over all pairs
    corrected = {(c.a, c.b): c.holm_randomisation for c in compare_all(measured, "nDCG@10")}
    assert (found.rows[0].difference, found.rows[0].p) == (None, None)
    assert [row.difference for row in found.rows[1:]] == pytest.approx(
        [row.score - found.rows[0].score for row in found.rows[1:]]
    )
    assert [row.p for row in found.rows[1:]] == [
        corrected[FIRST, row.system] for row in found.rows[1:]
    ]
    assert found.versus_control is not None
    difference, p = found.versus_control
    assert difference == pytest.approx(found.rows[2].score - found.rows[3].score)
    assert p == corrected[STUDENT, CONTROL]
    assert found.queries == 10
    assert found.glimpse is not None
    assert len(found.glimpse.after) == 3


def test_the_control_is_compared_by_a_corrected_p(recipe: DistillRecipe, tmp_path: Path) -> None:
    """Six pairs of systems, and the student above its control for every query."""
    queries = [f"q{i}" for i in range(8)]
    judgements = {q: {"p0": 1} for q in queries}

    def placed(*places: int) -> dict[str, Ranking]:
        """The relevant passage at these places, the same ones over and over."""
        run = {}
        for i, q in enumerate(queries):
            ids = ["p1", "p2", "p3"]
            ids.insert(places[i % len(places)], "p0")
            run[q] = Ranking.sorted(q, ids, [3, 2, 1, 0])
        return run

    runs = {
        FIRST: placed(2, 1),
        TEACHER: placed(1, 2),
        STUDENT: placed(0),
        CONTROL: placed(1, 3),
    }
    work = _Distillation(collection(), recipe, tmp_path, _unwatched, _silent)
    rows, versus = work._judged(judgements, runs)
    measured = {name: evaluate(run, judgements, ("nDCG@10",)) for name, run in runs.items()}
    (pair,) = (c for c in compare_all(measured, "nDCG@10") if (c.a, c.b) == (STUDENT, CONTROL))
    assert pair.comparison.p_randomisation < pair.holm_randomisation
    assert versus == (pytest.approx(pair.comparison.difference), pair.holm_randomisation)
    assert [row.system for row in rows] == list(runs)


def test_the_example_shows_what_its_collection_calls_relevant() -> None:
    texts = {f"p{i}": Passage(id=f"p{i}", title="passage", text=str(i)) for i in range(4)}
    queries = {q: Query(id=q, text=f"a query of a readable length, {q}") for q in ("a", "b")}
    grades = {"a": {"p0": 2, "p1": 1, "p2": 0}, "b": {"p0": 2}}
    first = {q: Ranking.sorted(q, texts, [0, 1, 2, 3]) for q in queries}
    student = first | {"a": Ranking.sorted("a", texts, [3, 2, 1, 0])}
    for entry, relevant in (
        (None, (True, True, False)),
        (COLLECTIONS["dl19"], (True, False, False)),
    ):
        made = Collection("tiny", corpus=lambda: texts, queries=lambda: queries, entry=entry)
        found = _glimpse(made, grades, {FIRST: first, STUDENT: student})
        assert found is not None
        # the query that gained
        assert found.query == queries["a"].text
        assert found.after == ("passage 0", "passage 1", "passage 2")
        assert found.relevant_after == relevant
        assert found.before == ("passage 3", "passage 2", "passage 1")
        assert found.relevant_before == (False, False, relevant[1])


def test_the_student_is_a_checkpoint_that_ranks(recipe: DistillRecipe, tmp_path: Path) -> None:
    tiny_collection = collection()
    distill(tiny_collection, recipe, tmp_path / "d")
    student = Reranker(tmp_path / "d" / "student")
    run = read_run(tmp_path / "d" / "ranked" / "student.trec")
    query_id, ranking = next(iter(run.items()))
    passages = [tiny_collection.corpus[p] for p in ranking.passage_ids]
    again = student.rank(tiny_collection.queries()[query_id].text, passages)
    assert again.scores[0] == pytest.approx(ranking.scores[0], abs=2e-2)


def test_what_is_done_is_not_done_again(recipe: DistillRecipe, tmp_path: Path) -> None:
    first = distill(collection(), recipe, tmp_path / "d")
    weights = (tmp_path / "d" / "student" / "model.safetensors").stat().st_mtime_ns
    notes: list[str] = []
    second = distill(collection(), recipe, tmp_path / "d", note=notes.append)
    assert sum("kept" in note for note in notes) == 9
    assert (tmp_path / "d" / "student" / "model.safetensors").stat().st_mtime_ns == weights
    assert second.rows == first.rows


def test_a_damaged_output_is_made_again_and_the_rest_kept(
    recipe: DistillRecipe, tmp_path: Path
) -> None:
    first = distill(collection(), recipe, tmp_path / "d")
    ranked = tmp_path / "d" / "ranked" / "student.trec"
    ranked.write_text(ranked.read_text().splitlines()[0] + "\n")
    notes: list[str] = []
    second = distill(collection(), recipe, tmp_path / "d", note=notes.append)
    assert [n for n in notes if n.startswith("rank student")] != ["rank student: done before, kept"]
    assert sum("kept" in note for note in notes) == 8
    assert [row.score for row in second.rows] == [row.score for row in first.rows]


def test_another_recipe_or_other_texts_are_refused(base: str, tmp_path: Path) -> None:
    distill(collection(), tiny(base), tmp_path / "d")
    with pytest.raises(ConfigError, match=r"student\.train\.epochs"):
        distill(collection(), tiny(base, "student.train.epochs=2.0"), tmp_path / "d")
    other = collection()
    changed = dict(other.corpus) | {"p0": Passage(id="p0", text="w1 w2")}
    parts = {s: other.judgements(s) for s in ("train", "test")}
    with pytest.raises(ConfigError, match="texts"):
        distill(
            Collection.from_parts("tiny", changed, other.queries(), parts),
            tiny(base),
            tmp_path / "d",
        )


def test_without_judgements_the_teacher_is_read_as_it_comes_and_agreement_reported(
    recipe: DistillRecipe, tmp_path: Path
) -> None:
    found = distill(collection(judged=()), recipe, tmp_path / "d")
    assert [row.system for row in found.rows] == [FIRST, STUDENT]
    assert not (tmp_path / "d" / "teacher").exists()
    assert not (tmp_path / "d" / "control").exists()
    assert found.glimpse is None
    teacher = read_run(tmp_path / "d" / "ranked" / "teacher.trec")
    assert all(-1 <= row.score <= 1 for row in found.rows)
    assert set(teacher) == set(read_run(tmp_path / "d" / "ranked" / "student.trec"))


def test_test_judgements_alone_are_used_for_testing(recipe: DistillRecipe, tmp_path: Path) -> None:
    found = distill(collection(judged=("test",)), recipe, tmp_path / "d")
    assert [row.system for row in found.rows] == [FIRST, TEACHER, STUDENT]
    assert found.rows[0].difference is None
    assert found.rows[1].difference is not None


def test_the_student_may_start_from_the_teacher_and_the_control_never_does(
    base: str, tmp_path: Path
) -> None:
    recipe = tiny(base, "student.from_teacher=true", "student.train.learning_rate=1e-12")
    distill(collection(), recipe, tmp_path / "d")

    def words(folder: Path | str) -> torch.Tensor:
        name = "embeddings.word_embeddings.weight"
        weights = load_file(Path(folder) / "model.safetensors")
        return next(value for key, value in weights.items() if key.endswith(name))

    torch.testing.assert_close(words(tmp_path / "d/student"), words(tmp_path / "d/teacher"))
    torch.testing.assert_close(words(tmp_path / "d/control"), words(base))
    assert not torch.equal(words(tmp_path / "d/student"), words(base))


def test_training_queries_never_test(recipe: DistillRecipe, tmp_path: Path) -> None:
    distill(collection(judged=()), recipe, tmp_path / "d")
    taught = read_run(tmp_path / "d" / "first-stage" / "train.trec")
    tested = read_run(tmp_path / "d" / "first-stage" / "test.trec")
    assert taught
    assert tested
    assert not set(taught) & set(tested)


def test_too_few_queries_are_an_error(recipe: DistillRecipe, tmp_path: Path) -> None:
    one = Collection.from_parts(
        "one", {"p": Passage(id="p", text="w1 w2")}, {"q": Query(id="q", text="w1")}, {}
    )
    with pytest.raises(DataError, match="too few"):
        distill(one, recipe, tmp_path / "d")


def test_candidates_too_few_to_compare_are_an_error(recipe: DistillRecipe, tmp_path: Path) -> None:
    corpus = {f"p{i}": Passage(id=f"p{i}", text=f"w{i}") for i in range(12)}
    queries = {f"q{i}": Query(id=f"q{i}", text=f"w{i}") for i in range(12)}
    with pytest.raises(DataError, match="too small"):
        distill(Collection.from_parts("dots", corpus, queries, {}), recipe, tmp_path / "d")


def test_agreement_is_one_with_itself_and_minus_one_with_its_reverse() -> None:
    run = {"q": Ranking(query_id="q", passage_ids=("a", "b", "c"), scores=(3.0, 2.0, 1.0))}
    back = {"q": Ranking(query_id="q", passage_ids=("c", "b", "a"), scores=(3.0, 2.0, 1.0))}
    assert agreement(run, run) == pytest.approx(1.0)
    assert agreement(back, run) == pytest.approx(-1.0)
    assert agreement({}, run) == 0.0


_KILLED = """
import sys
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
from pathlib import Path
from test_distill import collection, tiny
from dear.distill import distill
def note(text):
    print(text, flush=True)
distill(collection(), tiny({base!r}), Path({folder!r}), note=note)
"""


def _notes(process: subprocess.Popen[str]) -> Iterator[str]:
    assert process.stdout is not None
    for line in process.stdout:
        yield line.strip()


def test_killed_in_between_it_goes_on_to_the_same_numbers(
    recipe: DistillRecipe, base: str, tmp_path: Path
) -> None:
    undisturbed = distill(collection(), recipe, tmp_path / "whole")
    tests = str(Path(__file__).parent)
    code = _KILLED.format(tests=tests, base=base, folder=str(tmp_path / "killed"))
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    ) as process:
        for line in _notes(process):
            if line.startswith("label:"):
                process.send_signal(signal.SIGKILL)  # while the student trains
                break
    assert process.returncode == -signal.SIGKILL
    resumed = distill(collection(), recipe, tmp_path / "killed")
    assert [r.score for r in resumed.rows] == [r.score for r in undisturbed.rows]


def test_the_results_are_written(recipe: DistillRecipe, tmp_path: Path) -> None:
    from dear.artifacts import read_json

    found: Distilled = distill(collection(), recipe, tmp_path / "d")
    written = read_json(tmp_path / "d" / "results.json")
    assert [row["score"] for row in written["rows"]] == [row.score for row in found.rows]
    assert "torch" in written["versions"]
