"""benchmarks/card.py over a hub-like folder of tiny models and small collections."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "scoring"))

from published_folders import write_model
from tiny_models import words

from dear.checkpoints.registry import FAMILY
from dear.data.collections import Collection
from dear.data.formats import write_run
from dear.evaluate.metrics import evaluate
from dear.rank.reranker import Reranker
from dear.records import Ranking, gather

pytestmark = pytest.mark.by_hand

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "card.py"
ABSENT = "dear-3b-reranker-ce-v1"
POINTS = ("dear-8b-reranker-ce-v1", "rankllama-7b")
LISTS = "dear-8b-reranker-listwise-v1"


def write_collection(folder: Path, queries: int, depth: int) -> None:
    """With `depth` candidates and one relevant passage a query, which BM25 put last."""
    (folder / "qrels").mkdir(parents=True)
    passages = {f"p{i}": words(4 + i % 5, i) for i in range(2 * depth)}
    asked = {f"q{i}": words(3, 900 + i) for i in range(queries)}
    for name, texts in (("corpus", passages), ("queries", asked)):
        lines = [json.dumps({"_id": key, "text": text}) for key, text in texts.items()]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    run = {
        q: Ranking.sorted(q, [f"p{i + n}" for i in range(depth)], range(depth, 0, -1))
        for n, q in enumerate(asked)
    }
    judged = [f"{q}\t{ranking.passage_ids[-1]}\t1" for q, ranking in run.items()]
    (folder / "qrels" / "test.tsv").write_text(
        "\n".join(["query-id\tcorpus-id\tscore", *judged]) + "\n"
    )
    write_run(folder / "runs" / "bm25.test.trec", run, "bm25")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("card")
    for seed, name in enumerate((*POINTS, LISTS)):
        write_model(root / "hub", FAMILY[name], seed)
    write_collection(root / "data" / "scifact", queries=3, depth=12)
    write_collection(root / "data" / "noveleval", queries=2, depth=4)
    return root


def run(place: Path, models: str, collections: str, *more: str) -> dict[str, Any]:
    command = [sys.executable, str(SCRIPT), "--models", models, "--collections", collections]
    for option in ("hub", "data", "work"):
        command += [f"--{option}", str(place / option)]
    surroundings = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--out", str(place / "card"), *more],
        capture_output=True,
        text=True,
        check=False,
        env=surroundings,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads((place / "card.json").read_text())["parts"])


def test_rankings_are_measured_beside_the_first_stage_and_the_published_number(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = run(place, ",".join((ABSENT, *POINTS, LISTS)), "scifact,noveleval,signal1m")
    monkeypatch.setenv("DEAR_MODELS", str(place / "hub"))
    scifact = Collection.from_folder(place / "data" / "scifact")
    first, judged = scifact.run("bm25", "test"), scifact.judgements("test")
    candidates = [gather(r, scifact.queries(), scifact.corpus) for r in first.values()]
    for name in POINTS:
        rows = {row["what"]: row for row in parts[name]["rows"]}
        ours = {r.query_id: r for r in Reranker(name).rank_candidates(candidates)}
        row = rows["scifact test nDCG@10"]
        expected = evaluate(ours, judged, ["nDCG@10"]).means["nDCG@10"]
        assert row["ours"] == pytest.approx(expected, abs=1e-4)
        assert row["first_stage"] == 0  # the relevant one stands at rank 12
        assert row["off"] is None  # another first stage than the published one
        # asked for and not here: said, and no end of the others
        assert "signal1m" in rows["signal1m"]["note"]
        assert any("not the published" in note for note in parts[name]["notes"])
    row = next(r for r in parts[POINTS[0]]["rows"] if "scifact" in r["what"])
    assert row["published"] == 0.7739
    assert "another first stage" in row["note"]
    # all candidates of NovelEval are ranked, so that their order does not matter
    lists = {row["what"]: row for row in parts[LISTS]["rows"]}
    for measure, published in (("nDCG@1", 0.9286), ("nDCG@5", 0.8804), ("nDCG@10", 0.9201)):
        row = lists[f"noveleval test {measure}"]
        assert row["off"] == pytest.approx(row["ours"] - published, abs=2e-4)
    # a model that is nowhere is no end either
    assert all("not in the hub's cache" in r["note"] for r in parts[ABSENT]["rows"][:2])
    assert "not the published 8B weights" in (place / "card.md").read_text()


def test_what_was_ranked_is_not_ranked_again(place: Path) -> None:
    before = run(place, POINTS[0], "scifact,noveleval,signal1m")[POINTS[0]]["rows"]
    kept, lost = (
        next((place / "work").glob(f"{POINTS[0]}@*/{name}-*/*.trec"))
        for name in ("scifact", "noveleval")
    )
    time = kept.stat().st_mtime_ns
    lost.unlink()
    assert run(place, POINTS[0], "scifact,noveleval,signal1m")[POINTS[0]]["rows"] == before
    assert kept.stat().st_mtime_ns == time
    assert lost.is_file()
