"""The whole way on a tiny collection: stages are done once, and the table adds up."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import dear.steps.distill
from dear.artifacts import read_json
from dear.data.catalogue import COLLECTIONS
from dear.data.collections import Collection
from dear.data.example_table import Example
from dear.data.formats import read_run
from dear.data.labels import read_labels
from dear.data.z_scores import z_scores
from dear.errors import ConfigError, DataError
from dear.evaluate.metrics import evaluate
from dear.evaluate.paired import holm, paired_randomisation
from dear.rank.fusion import fuse_runs
from dear.rank.reranker import Reranker
from dear.recipes import DistillRecipe, LossRecipe, Recipe, load_distill_recipe
from dear.records import Passage, Query, Ranking, Run
from dear.steps.distill import distill
from dear.steps.distilled import (
    CONTROL,
    FIRST,
    NO_LABELS,
    STUDENT,
    STUDENT_FUSED,
    TEACHER,
    ZERO_SHOT,
    ZERO_SHOT_FUSED,
    Distilled,
    Untrained,
    agreement,
    example_query,
)
from dear.steps.first_stages import DENSE, HYBRID
from dear.steps.query_splits import FEW_JUDGED
from dear.train.pointwise import Trained
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
            "made_queries=0",
            'student.kind="pointwise"',
            "student.model.layers=[]",
            "others=0",
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


def ranked(folder: Path) -> dict[str, Run]:
    """The systems of a judged collection whose teacher was trained, from their files."""
    first = read_run(folder / "first-stage" / "test.trec")

    def of(name: str) -> Run:
        return read_run(folder / "ranked" / f"{name}.trec")

    return {
        FIRST: first,
        ZERO_SHOT: of("zero-shot"),
        ZERO_SHOT_FUSED: fuse_runs(of("zero-shot"), first, 0.3),
        TEACHER: fuse_runs(of("teacher"), first, 0.3),
        STUDENT: of("student"),
        STUDENT_FUSED: fuse_runs(of("student"), first, 0.3),
        CONTROL: of(NO_LABELS),
    }


def by_query(run: Run) -> list[float]:
    """nDCG@10 of each test query, in the order of their ids."""
    judgements = collection().judgements("test")
    found = evaluate(run, {q: judgements[q] for q in sorted(run)}, ("nDCG@10",))
    return [found.per_query["nDCG@10"][q] for q in sorted(run)]


def corrected(systems: dict[str, list[float]]) -> dict[tuple[str, str], float]:
    """p of every pair of systems: paired randomisation, corrected over all of them."""
    pairs = list(itertools.combinations(systems, 2))
    found = [paired_randomisation(systems[a], systems[b]) for a, b in pairs]
    return dict(zip(pairs, holm(found), strict=True))


def test_a_judged_collection_gives_rows_that_its_own_runs_confirm(
    recipe: DistillRecipe, tmp_path: Path
) -> None:
    found = distill(collection(), recipe, tmp_path / "d")
    systems = {name: by_query(run) for name, run in ranked(tmp_path / "d").items()}
    means = {name: sum(values) / len(values) for name, values in systems.items()}
    p = corrected(systems)
    assert [row.system for row in found.rows] == list(systems)
    for row in found.rows:
        assert row.score == pytest.approx(means[row.system])
        if row.system != FIRST:
            assert row.difference == pytest.approx(means[row.system] - means[FIRST])
            assert row.p == pytest.approx(p[FIRST, row.system])
            assert row.parameters
    assert [row.seconds is not None for row in found.rows] == [False] * 3 + [True] * 4
    worth = found.labels_worth
    assert worth is not None
    assert worth.difference == pytest.approx(means[STUDENT] - means[CONTROL])
    assert worth.p == pytest.approx(p[STUDENT, CONTROL])
    assert worth.interval[0] <= worth.difference <= worth.interval[1]
    assert found.queries == 10
    assert found.glimpse is not None
    assert len(found.glimpse.after) == 3


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
        found = example_query(made, grades, {FIRST: first, STUDENT: student})
        assert found is not None
        # the query that gained
        assert found.query == queries["a"].text
        assert found.after == ("passage 0", "passage 1", "passage 2")
        assert found.relevant_after == relevant
        assert found.before == ("passage 3", "passage 2", "passage 1")
        assert found.relevant_before == (False, False, relevant[1])


def test_the_first_table_comes_before_any_training_and_again_from_what_is_there(
    recipe: DistillRecipe, tmp_path: Path
) -> None:
    told: list[str] = []
    tables: list[Untrained] = []

    def first(found: Untrained) -> None:
        told.append("first table")
        tables.append(found)

    for _ in range(2):
        found = distill(collection(), recipe, tmp_path / "d", note=told.append, first=first)
        assert found.untrained == tables[-1]
        at = told.index("first table")
        stages = [line.partition(":")[0] for line in told[1:at]]
        assert stages == ["retrieve test", "rank zero-shot"]
        assert not any("train teacher" in line for line in told[:at])
        told.clear()
    assert tables[0] == tables[1]
    systems = {name: by_query(run) for name, run in ranked(tmp_path / "d").items()}
    systems = {name: systems[name] for name in (FIRST, ZERO_SHOT, ZERO_SHOT_FUSED)}
    p = corrected(systems)
    assert [row.system for row in tables[0].rows] == list(systems)
    for row in tables[0].rows:
        assert row.score == pytest.approx(sum(systems[row.system]) / len(systems[row.system]))
        assert row.seconds is None
        assert row.p == (None if row.system == FIRST else pytest.approx(p[FIRST, row.system]))
    written = read_json(tmp_path / "d" / "results.json")["untrained"]
    assert [row["score"] for row in written["rows"]] == [row.score for row in tables[0].rows]


def test_without_the_first_stage_in_the_ensemble_there_is_no_row_for_it(
    base: str, tmp_path: Path
) -> None:
    found = distill(collection(), tiny(base, "teacher.first_stage=0"), tmp_path / "d")
    assert [row.system for row in found.rows] == [FIRST, ZERO_SHOT, TEACHER, STUDENT, CONTROL]


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
    assert sum("kept" in note for note in notes) == 10
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
    assert sum("kept" in note for note in notes) == 9
    assert [row.score for row in second.rows] == [row.score for row in first.rows]


def test_another_recipe_is_refused(base: str, tmp_path: Path) -> None:
    distill(collection(), tiny(base), tmp_path / "d")
    with pytest.raises(ConfigError, match=r"student\.train\.epochs"):
        distill(collection(), tiny(base, "student.train.epochs=3.0"), tmp_path / "d")


def test_without_judgements_the_teacher_is_read_as_it_comes_and_agreement_reported(
    recipe: DistillRecipe, tmp_path: Path
) -> None:
    told: list[Untrained] = []
    found = distill(collection(judged=()), recipe, tmp_path / "d", first=told.append)
    assert [row.system for row in found.rows] == [
        FIRST,
        ZERO_SHOT,
        TEACHER,
        STUDENT,
        STUDENT_FUSED,
    ]
    assert not told
    assert found.untrained is None
    assert found.labels_worth is None
    assert not (tmp_path / "d" / "teacher").exists()
    assert not (tmp_path / "d" / NO_LABELS).exists()
    assert found.glimpse is None
    teacher = read_run(tmp_path / "d" / "ranked" / "teacher.trec")
    assert all(-1 <= row.score <= 1 for row in found.rows)
    assert found.rows[2].score == pytest.approx(1.0)  # the teacher agrees with itself
    assert found.rows[2].name == f"{Path(recipe.student.model.base).name} + 0.3 · BM25"
    assert set(teacher) == set(read_run(tmp_path / "d" / "ranked" / "student.trec"))


def test_test_judgements_alone_are_used_for_testing(recipe: DistillRecipe, tmp_path: Path) -> None:
    notes: list[str] = []
    found = distill(collection(judged=("test",)), recipe, tmp_path / "d", note=notes.append)
    assert [row.system for row in found.rows] == [
        FIRST,
        ZERO_SHOT,
        TEACHER,
        STUDENT,
        STUDENT_FUSED,
    ]
    assert found.rows[0].difference is None
    assert found.rows[1].difference is not None
    assert found.rows[1].parameters == found.rows[2].parameters is not None
    # the teacher needs no training, so that the first table holds it, and it ranks once
    assert found.untrained is not None
    assert [row.system for row in found.untrained.rows] == [FIRST, ZERO_SHOT, TEACHER]
    ranking = [note.partition(":")[0] for note in notes if note.startswith("rank ")]
    assert ranking == ["rank teacher", "rank student"]


def test_judgements_for_training_alone_train_a_teacher_and_leave_agreement(
    recipe: DistillRecipe, tmp_path: Path
) -> None:
    found = distill(collection(judged=("train",)), recipe, tmp_path / "d")
    assert [row.system for row in found.rows] == [FIRST, TEACHER, STUDENT, STUDENT_FUSED, CONTROL]
    assert found.untrained is None
    assert found.labels_worth is None
    assert not (tmp_path / "d" / "ranked" / "zero-shot.trec").exists()


def words_of(folder: Path | str) -> torch.Tensor:
    """The embeddings of words in a model's folder."""
    weights = load_file(Path(folder) / "model.safetensors")
    name = "embeddings.word_embeddings.weight"
    return next(value for key, value in weights.items() if key.endswith(name))


@pytest.mark.parametrize("from_teacher", [True, False])
def test_student_and_control_start_alike(base: str, tmp_path: Path, from_teacher: bool) -> None:
    recipe = tiny(
        base,
        f"student.from_teacher={str(from_teacher).lower()}",
        "student.train.learning_rate=1e-12",
    )
    found = distill(collection(), recipe, tmp_path / "d")
    start = tmp_path / "d/teacher" if from_teacher else base
    for name in ("student", NO_LABELS):
        torch.testing.assert_close(words_of(tmp_path / "d" / name), words_of(start))
    assert not torch.equal(words_of(tmp_path / "d/teacher"), words_of(base))
    assert found.labels_worth is not None
    assert found.labels_worth.start == ("teacher" if from_teacher else base)


def test_the_control_of_an_older_distillation_is_not_taken(
    recipe: DistillRecipe, tmp_path: Path
) -> None:
    """It was called control, and started from the base, whatever the student started from."""
    distill(collection(), recipe, tmp_path / "d")
    folder = tmp_path / "d"
    for old, new in (
        (folder / NO_LABELS, folder / "control"),
        (folder / f"ranked/{NO_LABELS}.trec", folder / "ranked/control.trec"),
        (folder / f"stages/train-{NO_LABELS}.json", folder / "stages/train-control.json"),
        (folder / f"stages/rank-{NO_LABELS}.json", folder / "stages/rank-control.json"),
    ):
        old.rename(new)
    notes: list[str] = []
    distill(collection(), recipe, folder, note=notes.append)
    done = [n.partition(":")[0] for n in notes[1:] if "kept" not in n and "reckoned" not in n]
    assert done == [f"train {NO_LABELS}", f"rank {NO_LABELS}"]


def test_the_student_learns_the_teachers_scores_times_the_scale(
    base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """z-scores alone would be flat logits; the first stage is in them with its weight, as it is in
    the order that the student is compared with."""
    taught: dict[str, tuple[Recipe, Sequence[Example]]] = {}
    inner = dear.steps.distill.train

    def watched(made: Recipe, folder: Path, *, examples: Sequence[Example], **rest: Any) -> Trained:
        taught[folder.name] = made, examples
        return inner(made, folder, examples=examples, **rest)

    monkeypatch.setattr(dear.steps.distill, "train", watched)
    recipe = tiny(
        base, "teacher.scale=7.5", "teacher.first_stage=0.5", "student.loss.temperature=1.5"
    )
    found = distill(collection(judged=()), recipe, tmp_path / "d")
    made, examples = taught["student"]
    assert made.loss == LossRecipe(main=(), alpha=1.0, temperature=1.5)
    stores = [read_labels(tmp_path / "d" / "labels" / name) for name in ("teacher", "first-stage")]
    groups = [example.group for example in examples]
    assert len(groups) > 10
    for group in groups:
        ids = list(stores[0].scores[group.query_id])
        z = [z_scores(store.of(group.query_id, ids)) for store in stores]
        wanted = dict(zip(ids, 7.5 * (z[0] + 0.5 * z[1]), strict=True))
        assert group.teacher == pytest.approx([wanted[p] for p in group.passage_ids], abs=1e-4)
    first, teacher = (
        read_run(tmp_path / "d" / f"{name}.trec") for name in ("first-stage/test", "ranked/teacher")
    )
    fused = fuse_runs(teacher, first, 0.5)
    assert found.rows[0].score == pytest.approx(agreement(first, fused))
    assert found.rows[0].score != pytest.approx(agreement(first, teacher))


def test_training_queries_never_test(recipe: DistillRecipe, tmp_path: Path) -> None:
    distill(collection(judged=()), recipe, tmp_path / "d")
    taught = read_run(tmp_path / "d" / "first-stage" / "train.trec")
    tested = read_run(tmp_path / "d" / "first-stage" / "test.trec")
    assert taught
    assert tested
    assert not set(taught) & set(tested)


ASKED = ("ban cot", "dir fen gut", "hat lor", "min ban", "cor dit", "fer gun", "han lot", "mir")


ASKED = ("ban cot", "dir fen gut", "hat lor", "min ban", "cor dit", "fer gun", "han lot", "mir")


def test_a_small_corpus_is_searched_by_its_embeddings_too_and_the_hybrid_teaches(
    base: str, tmp_path: Path
) -> None:
    notes: list[str] = []
    recipe = tiny(base, f'dense="{base}"', "dense_passages=36")
    found = distill(collection(judged=("test",)), recipe, tmp_path / "d", note=notes.append)
    folder = tmp_path / "d" / "first-stage"
    bm25, dense, hybrid = (
        read_run(folder / f"test{kind}.trec") for kind in (".bm25", ".dense", "")
    )
    student = read_run(tmp_path / "d" / "ranked" / "student.trec")
    systems = {
        FIRST: bm25,
        DENSE: dense,
        TEACHER: hybrid,
        STUDENT: student,
        STUDENT_FUSED: fuse_runs(student, hybrid, 0.3),
    }
    judgements = collection().judgements("test")
    assert [row.system for row in found.rows] == list(systems)
    for row in found.rows:
        mean = evaluate(systems[row.system], {q: judgements[q] for q in hybrid}, ("nDCG@10",))
        assert row.score == pytest.approx(mean.means["nDCG@10"])
    # dense finds what BM25 cannot, and nothing is scored that the vectors say already
    model = Reranker(f"biencoder:{base}")
    query_id, ranking = next(iter(dense.items()))
    everything = list(collection().corpus.values())
    best = model.rank(collection().queries()[query_id].text, everything)
    assert set(best.passage_ids[:6]) == set(ranking.passage_ids)
    assert not any(note.startswith("rank teacher") for note in notes)
    # the student learns the hybrid's own scores
    assert [p.name for p in (tmp_path / "d" / "labels").iterdir() if p.is_dir()] == ["first-stage"]
    store = read_labels(tmp_path / "d" / "labels" / "first-stage")
    taught = read_run(folder / "train.trec")
    for query_id, ranking in taught.items():
        assert store.of(query_id, ranking.passage_ids) == pytest.approx(ranking.scores, abs=1e-5)
    one = found.recommendation
    if one.system == TEACHER:
        assert "--retriever hybrid" in one.commands[0]


def test_few_judged_queries_to_train_on_train_nothing_unasked(base: str, tmp_path: Path) -> None:
    changes = (f'dense="{base}"', "student.of_first_stage=false", "test.queries=100")
    both = collection(judged=("train", "test"))
    assert len(both.judgements("train")) < FEW_JUDGED
    found = distill(both, tiny(base, *changes), tmp_path / "d")
    assert [row.system for row in found.rows] == [FIRST, DENSE, TEACHER]
    assert found.queries == len(both.judgements("test"))


def test_no_student_is_trained_that_could_only_learn_the_hybrid(base: str, tmp_path: Path) -> None:
    notes: list[str] = []
    changes = (f'dense="{base}"', "student.of_first_stage=false", "test.queries=100")
    asked = collection(judged=())
    found = distill(asked, tiny(base, *changes), tmp_path / "d", note=notes.append)
    assert [row.system for row in found.rows] == [FIRST, DENSE, TEACHER]
    assert not (tmp_path / "d" / "student").exists()
    assert not any("train" in note for note in notes)
    one = found.recommendation
    assert (one.system, one.student, one.student_steps) == (TEACHER, None, None)
    # nothing is trained on them, so all queries are there to compare systems
    assert len(read_run(tmp_path / "d" / "first-stage" / "test.trec")) == len(asked.queries())
    # with judgements there is a table, an example, and every judged query in it
    tested = collection(judged=("test",))
    judged = distill(tested, tiny(base, *changes), tmp_path / "judged")
    assert judged.queries == len(tested.judgements("test"))
    assert judged.glimpse is not None
    assert judged.recommendation.student is None
    # a teacher that is another model teaches one
    model = shutil.copytree(base, tmp_path / "another")
    other = tiny(base, *changes, f'teacher.zero_shot="biencoder:{model}"')
    assert STUDENT in [row.system for row in distill(asked, other, tmp_path / "other").rows]


def test_another_teacher_ranks_what_the_hybrid_finds_and_the_hybrid_is_measured(
    base: str, tmp_path: Path
) -> None:
    other = save_bert(tmp_path / "other")
    changes = (f'dense="{base}"', f'teacher.zero_shot="biencoder:{other}"')
    found = distill(collection(judged=("test",)), tiny(base, *changes), tmp_path / "d")
    assert [row.system for row in found.rows] == [
        FIRST,
        DENSE,
        HYBRID,
        ZERO_SHOT,
        TEACHER,
        STUDENT,
        STUDENT_FUSED,
    ]
    stores = {p.name for p in (tmp_path / "d" / "labels").iterdir() if p.is_dir()}
    assert stores == {"teacher", "first-stage"}


def test_a_teacher_that_is_trained_ranks_what_the_hybrid_finds(base: str, tmp_path: Path) -> None:
    found = distill(
        collection(), tiny(base, f'dense="{base}"', "dense_passages=36"), tmp_path / "d"
    )
    assert [row.system for row in found.rows] == [
        FIRST,
        DENSE,
        HYBRID,
        TEACHER,
        STUDENT,
        STUDENT_FUSED,
        CONTROL,
    ]
    hybrid = read_run(tmp_path / "d" / "first-stage" / "test.trec")
    teacher = read_run(tmp_path / "d" / "ranked" / "teacher.trec")
    assert {q: set(r.passage_ids) for q, r in teacher.items()} == {
        q: set(r.passage_ids) for q, r in hybrid.items()
    }
    stores = {p.name for p in (tmp_path / "d" / "labels").iterdir() if p.is_dir()}
    assert stores == {"teacher", "first-stage"}


@pytest.fixture
def documents() -> Collection:
    """40 documents of three sentences each, and nothing else."""
    rng = random.Random(5)
    words = [
        a + b for a in ("ba", "co", "di", "fe", "gu", "ha", "lo", "mi") for b in ("n", "t", "r")
    ]
    said = [" ".join(rng.sample(words, 6)).capitalize() + "." for _ in range(120)]
    texts = [" ".join(said[3 * i : 3 * i + 3]) for i in range(40)]
    corpus = {f"p{i}": Passage(id=f"p{i}", text=text) for i, text in enumerate(texts)}
    return Collection.from_parts("notes", corpus, {}, {})


def test_documents_alone_are_distilled_with_queries_made_of_them(
    base: str, documents: Collection, tmp_path: Path
) -> None:
    recipe = tiny(base, "made_queries=30", 'student.kind="biencoder"', "student.model.layers=[0]")
    notes: list[str] = []
    found = distill(documents, recipe, tmp_path / "d", note=notes.append)
    made = Collection.from_folder(tmp_path / "d" / "made")
    taught = read_run(tmp_path / "d" / "first-stage" / "train.trec")
    tested = read_run(tmp_path / "d" / "first-stage" / "test.trec")
    assert set(taught) | set(tested) <= set(made.judgements("made"))
    assert taught
    assert tested
    assert not set(taught) & set(tested)
    # what is made of a passage trains no teacher, is no judgement to test by, and needs no control
    assert not (tmp_path / "d" / "teacher").exists()
    assert found.untrained is None
    assert [row.system for row in found.rows] == [
        FIRST,
        ZERO_SHOT,
        TEACHER,
        STUDENT,
        STUDENT_FUSED,
    ]
    assert len(taught) <= 30 < len(made.judgements("made"))
    assert any("(made)" in note for note in notes)
    # the student is a bi-encoder of one layer, and its commands say so
    student = read_run(tmp_path / "d" / "ranked" / "student.trec")
    query_id, ranking = next(iter(student.items()))
    passages = [documents.corpus[p] for p in ranking.passage_ids]
    model = Reranker(f"biencoder:{tmp_path / 'd' / 'student'}")
    again = model.rank(made.queries()[query_id].text, passages)
    assert again.scores[0] == pytest.approx(ranking.scores[0], abs=2e-2)
    assert model.model.model.config.num_hidden_layers == 1
    # and nothing is made again
    notes.clear()
    assert distill(documents, recipe, tmp_path / "d", note=notes.append).rows == found.rows
    assert "make queries: done before, kept" in notes


def test_what_a_student_does_not_read_and_how_long_it_learns_is_said_before(
    base: str, documents: Collection, tmp_path: Path
) -> None:
    notes: list[str] = []
    recipe = tiny(base, "made_queries=30", "student.contract.max_passage_tokens=8")
    distill(documents, recipe, tmp_path / "d", note=notes.append)
    said = next(i for i, note in enumerate(notes) if "reads 8 tokens of a passage" in note)
    assert "100% of the passages are longer" in notes[said]
    assert not any(note.startswith(("label", "train")) for note in notes[:said])
    # what a training will take is said before it begins
    reckoned = next(i for i, note in enumerate(notes) if "on this machine" in note)
    assert notes[reckoned].startswith("train student: ")
    assert "a minute or less" in notes[reckoned]
    assert any(note.startswith("train student: ") for note in notes[reckoned + 1 :])


def test_few_queries_of_ones_own_are_tested_with_and_never_trained_on(
    base: str, documents: Collection, tmp_path: Path
) -> None:
    asked = {f"q{i}": Query(id=f"q{i}", text=text) for i, text in enumerate(ASKED)}
    own = Collection.from_parts("notes", documents.corpus, asked, {})
    distill(own, tiny(base, "made_queries=30"), tmp_path / "d")
    assert set(read_run(tmp_path / "d" / "first-stage" / "test.trec")) <= set(asked)
    taught = read_run(tmp_path / "d" / "first-stage" / "train.trec")
    assert taught
    assert not set(taught) & set(asked)


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
from dear.steps.distill import distill
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
    found: Distilled = distill(collection(), recipe, tmp_path / "d")
    written = read_json(tmp_path / "d" / "results.json")
    assert [row["score"] for row in written["rows"]] == [row.score for row in found.rows]
    assert "torch" in written["versions"]
