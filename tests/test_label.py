"""Labelling: every pair once, the same bits after a kill, and whose labels they are."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from transformers import AutoTokenizer

import dear.data.labels as store_module
from dear.data.collections import Collection
from dear.data.label_stores import compact, look_into, merge
from dear.data.labels import LabelStore, read_labels
from dear.data.shards import Shard, Share
from dear.digests import Input, Inputs
from dear.errors import BackendError, ConfigError, ContractMismatch, DataError
from dear.label import FirstStage, label_with, label_with_all, slug
from dear.records import Ranking, Run
from dear.scoring.batching import require_finite
from dear.scoring.opening import open_model
from dear.scoring.workers import ScorerPool
from kills import dies_at, in_a_process
from tiny_training import collection, save_bert, save_reranker


@pytest.fixture(scope="module")
def tiny() -> Collection:
    return collection()


@pytest.fixture(scope="module")
def reranker(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_reranker(tmp_path_factory.mktemp("models") / "tiny-reranker")


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_bert(tmp_path_factory.mktemp("models") / "tiny-bert")


class Fake:
    """A teacher that counts what it is asked. score: the length of both texts."""

    def __init__(self, name: str = "fake", fingerprint: str = "f", **contract: Any) -> None:
        self.name, self.revision, self.fingerprint = name, "r", fingerprint
        self.contract = {"kind": "fake", **contract}
        self.parameters = 0
        self.asked: list[tuple[str, str]] = []

    def score(self, pairs: Sequence[tuple[str, str]], progress: Any = None) -> NDArray[np.float32]:
        self.asked += pairs
        if progress is not None:
            progress(len(pairs), len(pairs))
        return np.array([len(q) + len(p) / 100 for q, p in pairs], dtype=np.float32)


def train_run(tiny: Collection) -> dict[str, Ranking]:
    return tiny.run("bm25", "train")


def subset(run: Run, query_ids: Iterable[str]) -> dict[str, Ranking]:
    """The part of a run that ranks for these queries, in the run's order."""
    wanted = set(query_ids)
    return {q: r for q, r in run.items() if q in wanted}


def pairs_in(run: Run) -> set[tuple[str, str]]:
    return {(q, p) for q, r in run.items() for p in r.passage_ids}


def rows_of(folder: Path) -> list[tuple[str, str, bytes]]:
    """Every row on disk, in its order, scores as bytes: -0.0 is not 0.0."""
    rows: list[tuple[str, str, bytes]] = []
    for shard in sorted(folder.glob("shard-*.parquet")):
        table = pq.read_table(shard)
        scores = [score.tobytes() for score in table["score"].to_numpy()]
        rows += zip(
            table["query_id"].to_pylist(), table["passage_id"].to_pylist(), scores, strict=True
        )
    return rows


def test_every_pair_gets_its_score(tiny: Collection, reranker: str, tmp_path: Path) -> None:
    teacher = open_model(reranker, dtype="float32", device="cpu")
    run = train_run(tiny)
    done = label_with(tiny, [run], teacher, tmp_path / "l", shard_pairs=50)
    labels = read_labels(tmp_path / "l")
    assert (done.scored, done.kept) == (len(labels), 0)
    assert labels.missing(run) == 0
    assert {(q, p) for q, row in labels.scores.items() for p in row} == pairs_in(run)
    queries = tiny.queries()
    for query_id in list(run)[:3]:
        ids = run[query_id].passage_ids
        alone = [
            teacher.score([(queries[query_id].text, tiny.corpus[p].full_text)])[0] for p in ids
        ]
        assert labels.of(query_id, ids) == pytest.approx(alone, abs=1e-5)
    (stamp,) = labels.stamps
    assert (stamp.collection, stamp.teacher) == ("tiny", reranker)
    assert stamp.fingerprint == teacher.fingerprint
    assert stamp.revision == teacher.revision
    assert stamp.contract["prompt"] == "dear"


def test_nothing_is_scored_twice(tiny: Collection, tmp_path: Path) -> None:
    run = train_run(tiny)
    first, second = list(run)[:10], list(run)[5:]
    teacher = Fake()
    label_with(tiny, [subset(run, first)], teacher, tmp_path / "l", shard_pairs=7)
    # overlapping runs, each given twice over
    again = label_with(
        tiny,
        [subset(run, second), subset(run, first), subset(run, second)],
        teacher,
        tmp_path / "l",
    )
    assert again.kept == len(pairs_in(subset(run, first)))
    assert again.scored + again.kept == len(pairs_in(run))
    assert len(teacher.asked) == len(pairs_in(run))
    nothing = label_with(tiny, [run], teacher, tmp_path / "l")
    assert (nothing.scored, nothing.kept) == (0, len(pairs_in(run)))
    assert len(rows_of(tmp_path / "l")) == len(pairs_in(run))


def test_relevant_passages_are_labelled_whether_found_or_not(
    tiny: Collection, tmp_path: Path
) -> None:
    run, judged = train_run(tiny), tiny.judgements("train")
    label_with(tiny, [run], Fake(), tmp_path / "l", judged=judged)
    labels = read_labels(tmp_path / "l")
    relevant = {(q, p) for q, row in judged.items() for p, grade in row.items() if grade > 0}
    assert relevant - pairs_in(run)
    assert {(q, p) for q, row in labels.scores.items() for p in row} == pairs_in(run) | relevant


def test_irrelevant_judgements_and_other_queries_are_not(tiny: Collection, tmp_path: Path) -> None:
    run = subset(train_run(tiny), ["q0"])
    unseen = next(p for p in tiny.corpus if p not in run["q0"].passage_ids)
    label_with(tiny, [run], Fake(), tmp_path / "l", judged={"q0": {unseen: 0}, "q1": {unseen: 1}})
    assert set(read_labels(tmp_path / "l").scores["q0"]) == set(run["q0"].passage_ids)
    assert set(read_labels(tmp_path / "l").scores) == {"q0"}


def test_progress_counts_what_is_there_and_what_comes(tiny: Collection, tmp_path: Path) -> None:
    run = train_run(tiny)
    label_with(tiny, [subset(run, ["q0", "q1"])], Fake(), tmp_path / "l")
    seen: list[tuple[int, int]] = []
    label_with(
        tiny,
        [subset(run, ["q1", "q2", "q3"])],
        Fake(),
        tmp_path / "l",
        shard_pairs=10,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen[0] == (12, 36)
    assert seen[-1] == (36, 36)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


@pytest.mark.parametrize(
    ("teacher", "difference"),
    [
        (Fake(name="other"), "teacher: 'fake' there, 'other' now"),
        (Fake(fingerprint="g", template="b"), "contract.template: None there, 'b' now"),
    ],
)
def test_labels_of_another_teacher_are_refused_and_kept(
    tiny: Collection, tmp_path: Path, teacher: Fake, difference: str
) -> None:
    run = train_run(tiny)
    label_with(tiny, [run], Fake(), tmp_path / "l")
    before = rows_of(tmp_path / "l")
    with pytest.raises(ContractMismatch, match=difference):
        label_with(tiny, [run], teacher, tmp_path / "l")
    assert not teacher.asked
    assert rows_of(tmp_path / "l") == before


def test_another_contract_of_the_same_weights_is_refused(
    tiny: Collection, reranker: str, tmp_path: Path
) -> None:
    from dear.checkpoints.contract import DEAR

    run = subset(train_run(tiny), ["q0"])
    label_with(tiny, [run], open_model(reranker, dtype="float32", device="cpu"), tmp_path / "l")
    other = open_model(reranker, contract=DEAR, dtype="float32", device="cpu")
    with pytest.raises(ContractMismatch, match="truncation: 'pair' there, 'separate' now"):
        label_with(tiny, [run], other, tmp_path / "l")


def test_other_weights_under_the_same_name_are_refused(tiny: Collection, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    folder = Path(save_reranker(tmp_path / "model"))
    run = subset(train_run(tiny), ["q0"])
    label_with(tiny, [run], open_model(folder, dtype="float32", device="cpu"), tmp_path / "l")
    weights = load_file(folder / "model.safetensors")
    weights = {name: w + torch.full_like(w, 0.01) for name, w in weights.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ContractMismatch, match=r"revision: 'local-.* there, 'local-.* now"):
        label_with(tiny, [run], open_model(folder, dtype="float32", device="cpu"), tmp_path / "l")


class Otters(Fake):
    """Fails for passages in which a word occurs, in one of the ways in which models fail."""

    def __init__(self, word: str, how: str) -> None:
        super().__init__()
        self.word, self.how = word, how

    def score(self, pairs: Any, progress: Any = None) -> NDArray[np.float32]:
        scores = super().score(pairs, progress)
        bad = [i for i, (_, passage) in enumerate(pairs) if self.word in passage]
        if bad and self.how == "raises":
            raise RuntimeError("CUDA error: device-side assert\ntriggered")
        scores[bad] = np.nan
        if self.how == "refuses nan":
            require_finite(self.name, scores, pairs)
        return scores


@pytest.mark.parametrize("how", ["raises", "gives nan", "refuses nan"])
@pytest.mark.parametrize("shard", [None, "0/1", "1/2"])
def test_a_pair_that_cannot_be_scored_costs_itself_alone(
    how: str, shard: str | None, tiny: Collection, tmp_path: Path
) -> None:
    run, folder = train_run(tiny), tmp_path / "l"
    share = shard and Share.plan(Shard.parse(shard), 100, Inputs({"run": Input("1")}))
    asked: dict[str, Any] = {"share": share or None, "shard_pairs": 40}
    label_with(tiny, [run], Fake(), tmp_path / "sound", **asked)
    sound = rows_of(tmp_path / "sound")
    first = tiny.corpus[sound[len(sound) // 2][1]].full_text
    bad = {(q, p) for q, p, _ in sound if tiny.corpus[p].full_text == first}
    word = r"CUDA error: device-side assert" if how == "raises" else "score nan for query"
    for _ in range(2):
        teacher = Otters(first, how)
        with pytest.raises(DataError, match=rf"failed\.jsonl: {len(bad)} pairs? could.*{word}"):
            label_with(tiny, [run], teacher, folder, **asked)
        there = rows_of(folder)
        assert {(q, p) for q, p, _ in sound} - {(q, p) for q, p, _ in there} == bad
        assert {row for row in sound if row[:2] not in bad} == set(there)
        assert len(there) == len(sound) - len(bad)
        noted = [json.loads(line) for line in (folder / "failed.jsonl").read_text().splitlines()]
        assert {(row["query_id"], row["passage_id"]) for row in noted} == bad
        assert len(look_into(folder).failures) == len(bad)
        assert not look_into(folder).finished
    # whoever is no job of this store changes nothing
    before = {p.name: p.read_bytes() for p in folder.glob("*.*")}
    with pytest.raises(ContractMismatch):
        label_with(tiny, [run], Fake(name="another"), folder, **asked)
    assert compact(folder) == (0, 0)
    assert {p.name: p.read_bytes() for p in folder.glob("*.*")} == before
    if share is not None:
        with pytest.raises(ConfigError, match=r"not finished|is missing"):
            merge([look_into(folder)], tmp_path / "merged")
        merge([look_into(folder)], tmp_path / "merged", partial=True)
        folder = tmp_path / "merged"
        assert len(look_into(folder).failures) == len(bad)
    label_with(tiny, [run], Fake(), folder, **asked)
    assert not (folder / "failed.jsonl").exists()
    assert sorted(rows_of(folder)) == sorted(sound)
    if share is not None:
        assert contents(folder) == contents(tmp_path / "sound")


def test_several_processes_name_the_pair_that_has_no_score(
    tiny: Collection, tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    folder = Path(save_reranker(tmp_path / "model"))
    weights = load_file(folder / "model.safetensors")
    run = subset(train_run(tiny), list(train_run(tiny))[:2])
    rare = AutoTokenizer.from_pretrained(folder)("w39", add_special_tokens=False)["input_ids"][0]
    name = next(n for n in weights if n.endswith("word_embeddings.weight"))
    weights[name][rare] = torch.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    bad = {
        (q, p)
        for q, p in pairs_in(run)
        if "w39" in f"{tiny.queries()[q].text} {tiny.corpus[p].full_text}".split()
    }
    assert 0 < len(bad) < len(pairs_in(run))
    with (
        ScorerPool(str(folder), devices=["cpu", "cpu"], dtype="float32") as pool,
        pytest.raises(DataError, match="score nan for query"),
    ):
        label_with(tiny, [run], pool, tmp_path / "l")
    assert {(f.query_id, f.passage_id) for f in look_into(tmp_path / "l").failures} == bad
    assert {(q, p) for q, p, _ in rows_of(tmp_path / "l")} == pairs_in(run) - bad


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.parquet")}


def test_a_model_that_fails_everywhere_is_no_matter_of_pairs(
    tiny: Collection, tmp_path: Path
) -> None:
    run = train_run(tiny)
    for how, match in (("raises", "CUDA"), ("refuses nan", "score nan for query")):
        teacher = Otters("", how)
        with pytest.raises((RuntimeError, BackendError), match=match):
            label_with(tiny, [run], teacher, tmp_path / how)
        assert rows_of(tmp_path / how) == []
        assert not (tmp_path / how / "failed.jsonl").exists()
        assert len(teacher.asked) <= 10 * len(pairs_in(run))
    # a server that is not there is asked once
    gone = Fake()
    gone.score = lambda pairs, progress=None: refuse()  # type: ignore[method-assign]
    with pytest.raises(BackendError, match="no answer"):
        label_with(tiny, [run], gone, tmp_path / "gone")


def refuse() -> Any:
    raise BackendError("no answer")


def test_an_error_of_the_moment_leaves_no_trace(tiny: Collection, tmp_path: Path) -> None:
    class Once(Fake):
        def score(self, pairs: Any, progress: Any = None) -> NDArray[np.float32]:
            scores = super().score(pairs, progress)
            if len(self.asked) == len(pairs):
                raise RuntimeError("out of memory")
            return scores

    label_with(tiny, [train_run(tiny)], Once(), tmp_path / "l")
    label_with(tiny, [train_run(tiny)], Fake(), tmp_path / "sound")
    assert contents(tmp_path / "l") == contents(tmp_path / "sound")


def test_a_model_that_scores_nan_names_the_pair(tiny: Collection, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    folder = Path(save_reranker(tmp_path / "model"))
    weights = load_file(folder / "model.safetensors")
    weights["classifier.weight"] = torch.full_like(weights["classifier.weight"], float("nan"))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    teacher = open_model(folder, dtype="float32", device="cpu")
    with pytest.raises(BackendError, match="score nan for query 'w"):
        label_with(tiny, [train_run(tiny)], teacher, tmp_path / "l")
    assert rows_of(tmp_path / "l") == []


def test_ids_without_text_are_named_before_anything_is_scored(
    tiny: Collection, tmp_path: Path
) -> None:
    teacher = Fake()

    def run(query_id: str, passage_id: str) -> dict[str, Ranking]:
        return {query_id: Ranking(query_id=query_id, passage_ids=(passage_id,), scores=(1.0,))}

    with pytest.raises(DataError, match="'q99', which has no text"):
        label_with(tiny, [run("q99", "p0-0")], teacher, tmp_path / "l")
    with pytest.raises(DataError, match=r"query 'q1': passage 'p99' is not in the corpus of tiny"):
        label_with(tiny, [run("q1", "p99")], teacher, tmp_path / "l")
    with pytest.raises(DataError, match="ranks nothing"):
        label_with(tiny, [{}], teacher, tmp_path / "l")
    with pytest.raises(ConfigError, match="shard_pairs is 0"):
        label_with(tiny, [run("q1", "p0-0")], teacher, tmp_path / "l", shard_pairs=0)
    assert not teacher.asked
    assert not (tmp_path / "l").exists()


def test_the_first_stage_is_a_teacher(tiny: Collection, tmp_path: Path) -> None:
    run, judged = train_run(tiny), tiny.judgements("train")
    label_with(tiny, [run], FirstStage([run]), tmp_path / "l", judged=judged)
    labels = read_labels(tmp_path / "l")
    for query_id, ranking in run.items():
        assert labels.of(query_id, ranking.passage_ids).tolist() == list(ranking.scores)
        lacking = [p for p in judged[query_id] if p not in ranking.passage_ids]
        assert labels.of(query_id, lacking).tolist() == [min(ranking.scores)] * len(lacking)
    assert labels.stamps[0].teacher == "first-stage"


def test_several_teachers_read_as_one(tiny: Collection, tmp_path: Path) -> None:
    run = train_run(tiny)
    teachers = {"fake": Fake(), "first-stage": FirstStage([run])}
    done = label_with_all(tiny, [run], teachers, tmp_path / "l", weights=[1.0, 0.5])
    assert [d.folder.name for d in done] == ["fake", "first-stage"]
    labels = read_labels(tmp_path / "l")
    assert labels.missing(run) == 0
    ids = run["q0"].passage_ids

    def z(values: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
        return (values - values.mean()) / values.std()

    expected = sum(
        weight * z(read_labels(tmp_path / "l" / name).of("q0", ids).astype(np.float64))
        for name, weight in (("fake", 1.0), ("first-stage", 0.5))
    )
    assert labels.of("q0", ids) == pytest.approx(np.asarray(expected), abs=1e-5)
    # and goes on like a single one
    again = label_with_all(tiny, [run], teachers, tmp_path / "l", weights=[1.0, 0.5])
    assert [d.scored for d in again] == [0, 0]


def test_several_teachers_need_as_many_weights_and_names(tiny: Collection, tmp_path: Path) -> None:
    run = train_run(tiny)
    with pytest.raises(ConfigError, match="2 teachers, 1 weights"):
        label_with_all(tiny, [run], {"a": Fake(), "b": Fake()}, tmp_path / "l", weights=[1.0])
    with pytest.raises(ConfigError, match="share a folder's name: model, model"):
        label_with_all(tiny, [run], {"x/model": Fake(), "y/model": Fake()}, tmp_path / "l")


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("biencoder:minilm-l6", "biencoder-minilm-l6"),
        ("castorini/rankllama-v1-7b", "rankllama-v1-7b"),
        ("runs/teacher/", "teacher"),
        ("../..", "teacher"),
    ],
)
def test_a_teachers_folder_never_leaves_its_place(name: str, folder: str) -> None:
    assert slug(name) == folder


def job(kind: str, model: str, folder: Path, kill: str, call: int) -> None:
    """One labelling process, which dies where `kill` says."""
    import torch

    torch.set_num_threads(1)
    tiny = collection()
    if kill == "before a shard":
        LabelStore.append = dies_at(call, LabelStore.append)  # type: ignore[method-assign]
    elif kill == "after a shard":
        LabelStore.append = dies_at(call, LabelStore.append, after=True)  # type: ignore[method-assign]
    elif kill == "within a shard":
        pq.write_table = dies_at(call, pq.write_table, after=True)  # before it gets its name
    elif kill == "at the manifest":
        store_module.write_json = dies_at(call, store_module.write_json)
    teacher = open_model(f"{kind}{model}", dtype="float32", device="cpu", batch_tokens=200)
    label_with(
        tiny,
        [train_run(tiny)],
        teacher,
        folder,
        judged=tiny.judgements("train"),
        shard_pairs=60,
    )


@pytest.mark.parametrize("kind", ["", "biencoder:"])
def test_killed_at_any_moment_the_labels_are_the_same(
    kind: str, reranker: str, bert: str, tmp_path: Path
) -> None:
    model = bert if kind else reranker
    assert in_a_process(job, kind, model, tmp_path / "whole", "never", 0) == 0
    kills = [
        ("at the manifest", 1),
        ("before a shard", 2),
        ("within a shard", 1),
        ("after a shard", 1),
    ]
    for kill, call in kills:
        assert in_a_process(job, kind, model, tmp_path / "killed", kill, call) == -9
    assert in_a_process(job, kind, model, tmp_path / "killed", "never", 0) == 0
    whole = rows_of(tmp_path / "whole")
    assert len(whole) > 120
    assert len({(q, p) for q, p, _ in whole}) == len(whole)
    assert rows_of(tmp_path / "killed") == whole
    left = {p.name for p in (tmp_path / "killed").iterdir()}
    assert left == {p.name for p in (tmp_path / "whole").iterdir()}
