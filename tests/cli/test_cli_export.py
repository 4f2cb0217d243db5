"""`dear export` and `dear bench`, as a user runs them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import dear

pytest.importorskip("openvino", reason="the extra `openvino` is not installed")


@pytest.fixture(scope="module")
def run(animals: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "bm25.trec"
    assert dear("retrieve", animals, "--split", "dev", "--top-k", 10, "-o", path).status == 0
    return path


@pytest.fixture(scope="module")
def export(
    animals: Path, reranker: Path, run: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("exports") / "int8"
    done = dear(
        *("export", reranker, "-o", folder, "--dtype", "int8"),
        *("--collection", animals, "--run", run, "--pairs", 20, "--check-queries", 3),
    )
    assert done.status == 0, done.err
    for wanted in ("checkpoint, float32", "export", "pairs/s", "nDCG@10"):
        assert wanted in done.out
    return folder


def test_an_export_ranks_like_any_model(
    animals: Path, reranker: Path, run: Path, export: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.trec"
    done = dear("rank", animals, "--run", run, "--model", export, "-o", out)
    assert done.status == 0, done.err
    assert len(out.read_text().splitlines()) == len(run.read_text().splitlines())
    note = json.loads(out.with_suffix(".trec.json").read_text())
    assert note["contract"]["dtype"] == "int8"


def test_an_export_is_not_overwritten_and_not_exported_again(
    animals: Path, run: Path, export: Path, reranker: Path, tmp_path: Path
) -> None:
    before = sorted((p.name, p.stat().st_mtime_ns) for p in export.iterdir())
    line = dear("export", reranker, "-o", export).line
    assert "dear_export.json was made from other inputs" in line
    assert "settings.dtype: 'int8' there, 'bfloat16' now" in line
    assert sorted((p.name, p.stat().st_mtime_ns) for p in export.iterdir()) == before
    assert "is an export" in dear("export", export, "-o", tmp_path / "again").line
    same = ("--dtype", "int8", "--collection", animals, "--run", run, "--pairs", 20)
    assert "nothing was done" in dear("export", reranker, "-o", export, *same).out
    assert sorted((p.name, p.stat().st_mtime_ns) for p in export.iterdir()) == before


def test_a_certificate_is_shown(export: Path, reranker: Path) -> None:
    found = json.loads(dear("models", export, "--json").out)
    assert (found["format"], found["dtype"], found["queries"]) == ("openvino", "int8", 3)
    shown = dear("models", export).out
    for wanted in (str(reranker), "openvino, int8", "tau", "on 9 pairs"):
        assert wanted in shown
    assert "no dear_certificate.json" in dear("models", reranker).line


def test_wrong_options_are_one_line(reranker: Path, tmp_path: Path) -> None:
    line = dear("export", reranker, "-o", tmp_path / "a", "--dtype", "int8").line
    assert "--collection" in line
    line = dear("export", reranker, "-o", tmp_path / "a", "--dtype", "int4").line
    assert "bfloat16, float32 or int8" in line
    assert not list(tmp_path.iterdir())


def test_bench_measures_and_draws(
    animals: Path, reranker: Path, run: Path, export: Path, tmp_path: Path
) -> None:
    plot = tmp_path / "speed.svg"
    common = ("--collection", animals, "--run", run, "--split", "dev", "--queries", 3)
    done = dear("bench", reranker, export, *common, "--rounds", 1, "--plot", plot)
    assert done.status == 0, done.err
    for wanted in ("GFLOP/s", "published DeAR way", "OpenVINO int8", "of the matrix rate"):
        assert wanted in done.out
    assert plot.read_text().startswith("<svg")
    done = dear("bench", export, *common, "--rounds", 1, "--no-peers", "--json")
    found = json.loads(done.out)
    assert [row["name"] for row in found["rows"]] == ["dear, OpenVINO int8 (int8)"]
    assert found["queries"] == 3


def test_bench_refuses_what_it_cannot_measure(animals: Path, run: Path, reranker: Path) -> None:
    done = dear("bench", reranker, "--collection", animals, "--run", "nothing")
    assert "no run 'nothing'" in done.line
