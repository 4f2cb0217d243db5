"""Who teaches: a model that is named, or the strongest public one that is here and fast enough."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

import dear.steps.teachers
from dear.data.collections import Collection
from dear.data.formats import read_run, write_beir
from dear.data.labels import read_stamp
from dear.errors import ConfigError
from dear.evaluate.metrics import evaluate
from dear.rank.fusion import fuse_runs
from dear.rank.reranker import Reranker
from dear.recipes import DistillRecipe
from dear.records import gather
from dear.retrieve.bm25 import retrieve
from dear.steps.distill import distill, distill_with
from dear.steps.distilled import FIRST, TEACHER, ZERO_SHOT
from dear.steps.options import DistillOptions
from dear.steps.stages import Stages
from dear.steps.teachers import Choices, hours
from hub_cache import HubCache
from test_distill import collection, tiny
from tiny_training import save_bert, save_reranker

CROSS, LARGER = "cross-encoder/ms-marco-TinyBERT-L2-v2", "BAAI/bge-reranker-v2-m3"
EMBEDDER = "intfloat/e5-small-v2"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_bert(tmp_path_factory.mktemp("base") / "bert")


@pytest.fixture(scope="module")
def reranker(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_reranker(tmp_path_factory.mktemp("reranker") / "bert")


def quick(base: str, *changes: str) -> DistillRecipe:
    return tiny(base, "control=false", "student.queries=12", "teacher.queries=8", *changes)


def teacher_of(folder: Path) -> str:
    return read_stamp(folder / "labels" / "teacher").teacher


def test_a_named_teacher_teaches_though_queries_are_judged(
    base: str, reranker: str, tmp_path: Path
) -> None:
    tiny_collection = collection()
    folder = tmp_path / "tiny"
    write_beir(
        folder,
        corpus=tiny_collection.corpus.values(),
        queries=tiny_collection.queries().values(),
        judgements={split: tiny_collection.judgements(split) for split in ("train", "test")},
    )
    changes = [
        f'student.model.base="{base}"',
        f'teacher.model.base="{base}"',
        "others=0",
        "student.model.layers=[]",
    ]
    small = ["student.queries=12", "student.groups.size=4", "depth=8", "test.top_k=6"]
    options = DistillOptions(
        collection=str(folder),
        recipe="quick",
        output=tmp_path / "d",
        teacher=reranker,
        changes=(*changes, *small),
    )
    found = distill_with(options)
    assert teacher_of(tmp_path / "d") == reranker
    assert not (tmp_path / "d" / "teacher").exists()
    names = {row.system: row.name for row in found.rows}
    assert list(names)[:3] == [FIRST, ZERO_SHOT, TEACHER]
    assert names[TEACHER] == f"{Path(reranker).name} + 0.3 · BM25"
    assert found.untrained is not None
    assert [row.system for row in found.untrained.rows] == [FIRST, ZERO_SHOT, TEACHER]


@pytest.mark.parametrize(("name", "says"), [("first-stage", "could not do"), ("nope", "no model")])
def test_what_can_be_no_teacher_is_refused_at_once(name: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        DistillOptions(collection="nowhere", teacher=name)


def test_the_strongest_that_opens_teaches_and_stays_the_teacher(
    base: str, reranker: str, hub: HubCache, tmp_path: Path
) -> None:
    hub.add(CROSS, reranker)
    large = save_bert(tmp_path / "large", layers=8)
    hub.add(EMBEDDER, large)  # larger, but no cross-encoder
    broken = hub.add(LARGER, large)
    (broken / "tokenizer.json").unlink()
    recipe = quick(base, "teacher.strongest=true")
    notes: list[str] = []
    found = distill(collection(judged=("train",)), recipe, tmp_path / "d", note=notes.append)
    assert teacher_of(tmp_path / "d") == CROSS
    assert not (tmp_path / "d" / "teacher").exists()
    (said,) = [note for note in notes if note.startswith("the teacher is ")]
    # 12 training queries with 8 candidates each, 7 or so test queries with 6
    assert f"is {CROSS}, the strongest model here that labels 1" in said
    assert "passed over: " in said
    assert said.partition("passed over: ")[2].startswith(f"{LARGER} (")
    assert EMBEDDER not in said
    assert next(row.name for row in found.rows if row.system == ZERO_SHOT) == Path(CROSS).name
    # one that would be stronger comes later: the labels are not thrown away
    hub.add("BAAI/bge-reranker-base", save_reranker(tmp_path / "new"))
    notes.clear()
    again = distill(collection(judged=("train",)), recipe, tmp_path / "d", note=notes.append)
    assert again.rows == found.rows
    assert {"choose teacher: done before, kept", "label: done before, kept", said} <= set(notes)


@pytest.mark.parametrize(
    ("here", "minutes", "memory", "says"),
    [
        (False, 30.0, None, "no public model is here"),
        (True, 1e-9, None, "pairs would take 1 min)"),
        (True, 30.0, 10, "GiB of memory, 0.0 are free)"),
    ],
)
def test_where_none_can_the_recipes_own_teacher_does(
    here: bool,
    minutes: float,
    memory: int | None,
    says: str,
    base: str,
    reranker: str,
    hub: HubCache,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if here:
        hub.add(CROSS, reranker)
    if memory is not None:
        monkeypatch.setattr(dear.steps.teachers, "free_memory", lambda _device: memory)
    recipe = quick(base, "teacher.strongest=true", f"teacher.minutes={minutes}")
    notes: list[str] = []
    distill(collection(judged=()), recipe, tmp_path / "d", note=notes.append)
    assert teacher_of(tmp_path / "d") == f"biencoder:{base}"
    (said,) = [note for note in notes if note.startswith("the teacher is ")]
    assert said.startswith("the teacher is the recipe's own: ")
    assert says in said
    assert (f"passed over: {CROSS} (" in said) is here


def judged_by(model: str, top_k: int) -> Collection:
    """Its test queries' relevant passage is what `model` puts first of BM25's candidates."""
    plain = collection(judged=())
    queries = {q: plain.queries()[q] for q in list(plain.queries())[24:]}
    run = retrieve(plain.corpus, queries, top_k=top_k)
    candidates = [gather(ranking, plain.queries(), plain.corpus) for ranking in run.values()]
    found = Reranker(model).rank_candidates(candidates)
    judgements = {r.query_id: {r.passage_ids[0]: 1} for r in found}
    return Collection.from_parts("tiny", plain.corpus, plain.queries(), {"test": judgements})


def test_public_rerankers_are_measured_too_and_may_be_what_to_use(
    base: str, reranker: str, hub: HubCache, tmp_path: Path
) -> None:
    hub.add(EMBEDDER, base)
    snapshot = hub.add(CROSS, reranker)
    judged = judged_by(CROSS, top_k=6)
    notes: list[str] = []
    recipe = quick(base, "others=3")
    found = distill(judged, recipe, tmp_path / "d", note=notes.append)
    assert f"measured, too: {CROSS}" in notes
    system = f"other-{CROSS.replace('/', '--')}"
    assert found.untrained is not None
    for rows in (found.untrained.rows, found.rows):
        row, fused = (r for r in rows if r.system.startswith(system))
        assert (row.name, fused.name) == (Path(CROSS).name, f"{Path(CROSS).name} + 0.3 · BM25")
        assert row.score == pytest.approx(1.0)
        assert row.parameters == fused.parameters is not None
        assert row.pairs_per_s is not None
    first = read_run(tmp_path / "d" / "first-stage" / "test.trec")
    run = fuse_runs(read_run(tmp_path / "d" / "ranked" / f"{system}.trec"), first, 0.3)
    grades = judged.judgements("test")
    ours = evaluate(run, {q: grades[q] for q in run}, ("nDCG@10",)).means["nDCG@10"]
    assert fused.score == pytest.approx(ours)
    assert found.recommendation.system == system
    assert any(f"--model {CROSS}" in command for command in found.recommendation.commands)
    # one that is lost in between is named, and ends nothing
    hub.add(LARGER, reranker)
    (tmp_path / "d" / "ranked" / f"{system}.trec").unlink()
    (snapshot / "model.safetensors").unlink()
    again = distill(judged, recipe, tmp_path / "d", note=notes.append)
    assert any(note.startswith(f"{CROSS} is not measured: ") for note in notes)
    assert [r for r in again.rows if "other" in r.system] == []


def test_at_most_as_many_as_the_recipe_says_and_not_the_teacher_again(
    base: str, reranker: str, hub: HubCache, tmp_path: Path
) -> None:
    others = ["BAAI/bge-reranker-base", "BAAI/bge-reranker-large", CROSS]
    for name in (*others, LARGER):
        hub.add(name, reranker)
    hub.add(EMBEDDER, base)
    plain = collection(judged=())
    run = retrieve(plain.corpus, plain.queries(), top_k=5)
    notes: list[str] = []

    def found(folder: str, minutes: float, most: int) -> list[str]:
        notes.clear()
        stages = Stages(tmp_path / folder, notes.append)
        return Choices(stages, plain, run, minutes).others(most, but=LARGER)

    assert found("two", 30, 2) == others[:2]
    assert notes[-1] == f"measured, too: {', '.join(others[:2])}"
    assert found("slow", 0, 2) == []
    assert [notes[-1].count(name) for name in (*others, LARGER, EMBEDDER)] == [1, 1, 1, 0, 0]
    assert notes[-1].startswith("measured, too: no public reranker of this machine; passed over: ")
    assert found("none", 30, 0) == []
    assert not notes


def test_hours() -> None:
    assert [hours(s) for s in (2, 95, 7_140, 32_000)] == ["1 min", "2 min", "119 min", "9 h"]
