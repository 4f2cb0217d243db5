"""`bench` on a small checkpoint: ours, an export and the peers that are installed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from bench_models import CANDIDATES, JUDGEMENTS, reranker

from dear.bench import peers
from dear.bench.peers import PEERS, installed
from dear.bench.run import bench
from dear.errors import ConfigError
from dear.scoring.budget import CPU_CANDIDATES
from dear.scoring.opening import open_model
from dear.scoring.scorer import Scorer


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(reranker(tmp_path_factory.mktemp("bench") / "bert"))


def test_ours_and_the_peers_score_the_same_pairs_alike(checkpoint: str) -> None:
    found = bench([checkpoint], CANDIDATES, JUDGEMENTS, device="cpu", rounds=1)
    names = [row.name for row in found.rows]
    assert any(name.startswith("dear, float32") for name in names)
    assert "published DeAR way (float32, 228 tokens)" in names
    by_name = {row.name: row for row in found.rows}
    exact = next(row for name, row in by_name.items() if name.startswith("dear, float32"))
    for name in ("published DeAR way (float32, 228 tokens)", "sentence-transformers"):
        # the same weights in the same precision on the same words: the same ranking
        assert by_name[name].ndcg == pytest.approx(exact.ndcg, abs=1e-6)
    assert found.pairs == 24
    assert found.longest_tokens >= found.mean_tokens > 3
    assert all(row.pairs_per_s > 0 and row.load_s > 0 for row in found.rows)
    assert found.to_dict()["machine"]["device"] == "cpu"


def test_an_export_stands_beside_its_checkpoint(checkpoint: str, tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="the extra `openvino` is not installed")
    from dear.export.openvino import export_openvino
    from dear.scoring.loading import load_scoring_model

    export_openvino(load_scoring_model(checkpoint, dtype="float32"), tmp_path / "e", "float32")
    found = bench(
        [checkpoint, str(tmp_path / "e")],
        CANDIDATES,
        JUDGEMENTS,
        device="cpu",
        rounds=1,
        peers=False,
    )
    ndcg = {row.name: row.ndcg for row in found.rows}
    assert ndcg["dear, OpenVINO float32 (e)"] == pytest.approx(ndcg["dear, float32 (bert)"])
    # peers cannot read a graph, and say so
    alone = bench([str(tmp_path / "e")], CANDIDATES, None, device="cpu", rounds=1)
    assert "checkpoint's folder" in alone.failed["peers"]
    assert [row.ndcg for row in alone.rows] == [None]


def test_nothing_to_measure_is_an_error(checkpoint: str) -> None:
    with pytest.raises(ConfigError, match="no pair"):
        bench([checkpoint], [], None)
    with pytest.raises(ConfigError, match="name a model"):
        bench([], CANDIDATES, None)


def test_the_peers_that_are_not_installed_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    here, gone = (replace(next(iter(PEERS.values())), package=p) for p in ("json", "not_here"))
    monkeypatch.setattr(peers, "PEERS", {"here": here, "gone": gone})
    assert installed() == {"here": here}


def test_tuning_is_remembered_for_later_commands(
    checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    bench([checkpoint], CANDIDATES, None, device="cpu", rounds=1, peers=False, tune=True)
    kept = json.loads((tmp_path / "dear" / "budget.json").read_text())
    (found,) = kept.values()
    assert found in CPU_CANDIDATES
    scorer = open_model(checkpoint, device="cpu")
    assert isinstance(scorer, Scorer)
    assert scorer.batch_tokens == found
