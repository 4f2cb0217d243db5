"""`dear calibrate --probability` and `dear rerank --probability`, as a user runs them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from command_line import CORPUS, dear, good, read, refused, write_reranker

from dear import Reranker
from dear.errors import ConfigError, ContractMismatch
from dear.evaluate.calibration import Calibration

QUERY = "how does the owl sleep"


def fit(model: Path, animals: Path, *more: object) -> tuple[object, ...]:
    return (
        *("calibrate", model, "--collection", animals, "--dtype", "float32"),
        *("--unjudged", "irrelevant", "--probability"),
        *(more or ("isotonic",)),
    )


@pytest.fixture
def model(reranker: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(reranker, tmp_path / "model"))


@pytest.fixture
def passages(tmp_path: Path) -> Path:
    path = tmp_path / "passages.txt"
    path.write_text("\n".join(p.text for p in CORPUS.values()), encoding="utf-8")
    return path


def test_a_map_lies_with_the_checkpoint_and_is_used(
    model: Path, animals: Path, passages: Path
) -> None:
    revision = Reranker(model, dtype="float32").model.revision
    out = good(*fit(model, animals))
    assert "192 pairs of 8 queries, 8 of them relevant" in out
    assert "expected calibration error" in out
    values = read(model / "calibration.json")
    assert values["revision"] == revision == Reranker(model, dtype="float32").model.revision
    about = values["fitted_on"]
    assert (about["collection"], about["split"], about["unjudged"]) == (
        "animals",
        "dev",
        "irrelevant",
    )
    assert about["queries"] == 8
    assert about["run"] == "bm25.dev.trec", "no path of this machine goes with a checkpoint"
    assert len(about["run_sha256"]) == 64
    rerank = ("rerank", QUERY, passages, "--model", model, "--dtype", "float32", "--json")
    plain = json.loads(good(*rerank, "--top-k", 24))["results"]
    shown = json.loads(good(*rerank, "--top-k", 24, "--probability"))["results"]
    assert [r["id"] for r in shown] == [r["id"] for r in plain]
    assert "probability" not in plain[0]
    likely = [r["probability"] for r in shown]
    assert likely == sorted(likely, reverse=True)
    assert likely[0] > likely[-1]
    middle = (likely[0] + likely[-1]) / 2
    kept = json.loads(good(*rerank, "--top-k", 24, "--threshold", middle))["results"]
    assert kept == [r for r in shown if r["probability"] >= middle]
    assert 0 < len(kept) < 24
    table = good(*rerank[:-1], "--probability").splitlines()
    assert table[0].split() == ["rank", "score", "probability", "id", "passage"]
    told = dear(*rerank[:-1], "--probability").err
    assert "by a map fitted on animals, split dev, run bm25.dev.trec; for other kinds" in told
    nothing = dear(*rerank[:-1], "--threshold", 1)
    assert (nothing.status, nothing.out) == (0, "")
    assert "no passage is relevant with a probability of 1 or more" in nothing.err


def test_the_reranker_gives_probabilities(model: Path, animals: Path, tmp_path: Path) -> None:
    good(*fit(model, animals), "-o", tmp_path / "maps")
    assert not (model / "calibration.json").exists()
    pairs = [(QUERY, p) for p in CORPUS.values()]
    with pytest.raises(ConfigError, match=r"dear calibrate .* --collection NAME"):
        Reranker(model, dtype="float32").probability(pairs)
    reranker = Reranker(model, dtype="float32", calibration=tmp_path / "maps")
    found = reranker.probability(pairs)
    assert found.dtype == np.float64
    expected = Calibration.load(tmp_path / "maps").probability(reranker.score(pairs))
    assert found.tolist() == expected.tolist()
    assert reranker.probability([]).tolist() == []


def test_a_map_of_other_weights_is_refused(model: Path, animals: Path, tmp_path: Path) -> None:
    good(*fit(model, animals))
    other = write_reranker(tmp_path / "other", seed=1)
    shutil.copy(model / "calibration.json", other)
    with pytest.raises(ContractMismatch, match="calibrate again"):
        Reranker(other, dtype="float32").probability([("a", "b")])
    (tmp_path / "p.txt").write_text("an owl")
    line = refused("rerank", QUERY, tmp_path / "p.txt", "--model", other, "--threshold", 0.5)
    assert "calibration: fitted on revision" in line


def test_scores_of_a_run_by_this_model_are_taken_from_it(
    model: Path, animals: Path, tmp_path: Path
) -> None:
    run = tmp_path / "ranked.trec"
    rank = ("rank", animals, "--split", "dev", "--run", "bm25", "--dtype", "float32")
    good(*rank, "--model", model, "-o", run)
    done = dear(*fit(model, animals), "--run", run)
    assert done.status == 0
    assert "its scores are taken from there" in done.err
    taken = read(model / "calibration.json")["map"]
    (model / "calibration.json").unlink()
    done = dear(*fit(model, animals))
    assert "taken from there" not in done.err
    assert "only 8 relevant pairs: a rough map" in done.err
    computed = read(model / "calibration.json")["map"]
    assert taken["scores"] == pytest.approx(computed["scores"], abs=1e-5)
    # a fused run's scores are not the model's
    (model / "calibration.json").unlink()
    good(*rank, "--model", model, "--fuse", 0.5, "-o", run)
    assert "taken from there" not in dear(*fit(model, animals), "--run", run).err
    assert read(model / "calibration.json")["map"]["scores"] == pytest.approx(
        computed["scores"], abs=1e-5
    )


def test_refusals_are_one_line(model: Path, animals: Path, passages: Path) -> None:
    judged = ("calibrate", model, "--collection", animals, "--probability", "platt")
    assert "count as irrelevant" in refused(*judged)
    assert "--allow-test" in refused(*fit(model, animals), "--split", "test")
    assert "did you mean 'isotonic'" in refused(*fit(model, animals, "isotonc"))
    assert "leave or irrelevant" in refused(*judged, "--unjudged", "drop")
    hub = ("calibrate", "biencoder:minilm-l6", "--collection", animals, "--probability", "platt")
    assert "--output" in refused(*hub)
    rerank = ("rerank", QUERY, passages, "--model", model, "--probability")
    assert "`dear calibrate" in refused(*rerank)
    assert "calibration.json" in refused(*rerank, "--calibration", animals)
    assert not (model / "calibration.json").exists()
    good(*fit(model, animals), "--split", "test", "--allow-test")
    assert "nothing was done" in good(*fit(model, animals), "--split", "test", "--allow-test")
    assert "was made from other inputs" in refused(*fit(model, animals))
