"""Ranking and what is done with a ranker, called from Python."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_lists import save_language_model

from dear import steps
from dear.data.formats import read_run
from dear.data.origins import read_origin
from dear.errors import ConfigError
from dear.steps.options import (
    BenchOptions,
    CalibrateOptions,
    CheckOptions,
    ExportOptions,
    ListwiseOptions,
    ModelOptions,
    PlanOptions,
    RankOptions,
    RerankOptions,
)
from dear.steps.progress import OnProgress, Silent

FLOAT32 = ModelOptions(dtype="float32", device="cpu")


class Watched:
    """Which pieces of work were watched."""

    def __init__(self) -> None:
        self.work: list[tuple[str, str]] = []

    @contextlib.contextmanager
    def __call__(self, what: str, unit: str) -> Iterator[OnProgress]:
        self.work.append((what, unit))
        yield Silent()


@pytest.fixture(scope="module")
def lists(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random language model that orders lists in one pass."""
    return f"local:{save_language_model(tmp_path_factory.mktemp('lists') / 'tiny')}#first"


@pytest.mark.usefixtures("silent")
def test_a_model_ranks_with_a_weight_from_dev_queries(
    animals: str, reranker: str, tmp_path: Path
) -> None:
    output, watch = tmp_path / "out.trec", Watched()
    options = RankOptions(
        collection=animals,
        run="bm25",
        output=output,
        model=reranker,
        top_k=10,
        fuse="auto",
        model_options=FLOAT32,
    )
    found = steps.rank.rank(options, watch=watch)
    written = read_run(output, ties="written")
    assert {q: r.passage_ids for q, r in written.items()} == {
        q: r.passage_ids for q, r in found.run.items()
    }
    assert found.totals.cost.pairs == 8 * 10
    assert found.answers is None
    assert found.fused is not None
    assert found.fused.queries == 8
    assert found.fused.means[found.fused.weight] == max(found.fused.means.values())
    assert watch.work == [("ranking dev", "pairs"), ("ranking", "pairs")]
    origin = read_origin(output)
    assert origin is not None
    assert origin.values["fuse"]["weight"] == found.fused.weight
    assert {"model", "texts", "run"} <= set(origin.values["inputs"])


@pytest.mark.usefixtures("silent")
def test_lists_rank_and_keep_their_answers(
    animals: str, reranker: str, lists: str, tmp_path: Path
) -> None:
    output = tmp_path / "out.trec"
    options = RankOptions(
        collection=animals,
        run="bm25",
        output=output,
        model=reranker,
        listwise=lists,
        listwise_options=ListwiseOptions(prompt="list", strategy="full"),
        depth=4,
        model_options=FLOAT32,
    )
    first = steps.rank.rank(options)
    assert first.totals.cost.windows == 8
    assert first.answers is not None
    assert first.answers.ledger == tmp_path / "out.trec.answers.jsonl"
    again = steps.rank.rank(options)
    assert again.answers is not None
    assert again.answers.usage is not None
    assert (again.answers.usage.asked, again.answers.usage.kept) == (0, 8)
    assert again.run == first.run
    # the scores are the reader's, not the positions
    assert all(r.scores[0] != len(r) for r in first.run.values())


def test_options_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    common = {"collection": "animals", "run": "bm25", "output": tmp_path / "out.trec"}
    with pytest.raises(ConfigError, match="ledger"):
        RankOptions(**common, model="m", ledger=tmp_path / "l")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="0 or more"):
        RankOptions(**common, model="m", fuse="-1")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="give a number"):
        RankOptions(**common, listwise="l", fuse="auto")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="flatters"):
        CalibrateOptions(model="m", collection="animals", output=tmp_path, split="test")


@pytest.mark.usefixtures("silent")
def test_a_ranker_is_checked(animals: str, reranker: str) -> None:
    watch = Watched()
    options = CheckOptions(
        model=reranker,
        collection=animals,
        run="bm25",
        queries=3,
        depth=6,
        only="order",
        model_options=FLOAT32,
    )
    found = steps.check.check(options, watch=watch)
    assert found.report.verdict("order") == "holds"
    assert (found.ranker, found.collection) == (reranker, "animals")
    assert found.values["checks"] == {"order": "holds"}
    assert set(watch.work) == {("checking: unchanged", "pairs"), ("checking: order", "pairs")}
    json.dumps(found.values)


@pytest.mark.usefixtures("silent")
def test_a_map_is_fitted_once(animals: str, reranker: str, tmp_path: Path) -> None:
    options = CalibrateOptions(
        model=reranker,
        collection=animals,
        output=tmp_path / "map",
        unjudged="irrelevant",
        probability="isotonic",
        model_options=FLOAT32,
    )
    made = steps.calibrate.calibrate(options)
    assert made.path.parent == tmp_path / "map"
    assert made.path.is_file()
    assert not made.unchanged
    again = steps.calibrate.calibrate(options)
    assert again.unchanged
    assert again.calibration.fitted_on == made.calibration.fitted_on


@pytest.mark.usefixtures("silent")
def test_a_file_is_reranked(reranker: str, tmp_path: Path) -> None:
    file = tmp_path / "passages.txt"
    file.write_text("The otter eats fish.\nThe cow eats grass.\nThe bee eats nectar.\n", "utf-8")
    options = RerankOptions(
        query="how does the cow eat",
        file=str(file),
        model=reranker,
        top_k=2,
        explain=True,
        model_options=FLOAT32,
    )
    found = steps.rerank.rerank(options)
    assert [r["rank"] for r in found.results] == [1, 2]
    assert found.ranked == 2
    for result in found.results:
        assert result["explanation"]["logit"] == pytest.approx(result["score"], abs=1e-5)


def test_an_export_is_compared(
    animals: str, reranker: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("openvino", reason="the extra `openvino` is not installed")
    options = ExportOptions(
        model=reranker,
        output=tmp_path / "export",
        dtype="float32",
        collection=animals,
        check_queries=2,
    )
    found = steps.export.export(options)
    assert found.path.is_file()
    assert found.queries == 2
    assert not found.failed
    assert [s.name for s in found.systems] == ["checkpoint, float32", "checkpoint", "export"]
    assert found.systems[0].ndcg == pytest.approx(found.systems[2].ndcg)
    assert steps.export.export(options).unchanged
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("silent")
def test_a_model_is_measured_and_drawn(animals: str, reranker: str, tmp_path: Path) -> None:
    options = BenchOptions(
        models=(reranker,),
        collection=animals,
        queries=2,
        top_k=5,
        rounds=1,
        peers=False,
        plot=tmp_path / "speed.svg",
        device="cpu",
    )
    found = steps.bench.bench(options)
    assert found.collection == "animals"
    assert (found.report.queries, found.report.pairs) == (2, 10)
    assert (tmp_path / "speed.svg").read_text("utf-8").startswith("<svg")


@pytest.mark.usefixtures("silent")
def test_a_training_is_planned() -> None:
    found = steps.plan.plan(PlanOptions(recipe="nano/student-ce", gpu="l4"))
    assert found.card.name == "l4"
    assert json.loads(json.dumps(found.to_dict()))["card"] == "l4"
