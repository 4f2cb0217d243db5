"""benchmarks/gpu.py runs to its end here, at tiny shapes on a processor."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SCRIPT = BENCHMARKS / "gpu.py"
DRY = BENCHMARKS / "results" / "gpu_dry.json"


def parts_of(script: Path) -> dict[str, int]:
    found = re.findall(r'^    Part\("([\w-]+)", .*, (\d+)\),$', script.read_text(), re.MULTILINE)
    return {name: int(seconds) for name, seconds in found}


def test_all_parts_together_take_less_than_eight_minutes() -> None:
    assert len(parts_of(SCRIPT)) == 9
    assert sum(parts_of(SCRIPT).values()) < 480


@pytest.mark.by_hand
@pytest.mark.slow
def test_it_runs_to_its_end_and_everything_is_right(tmp_path: Path) -> None:
    def run(*more: str) -> str:
        command = [sys.executable, str(SCRIPT), "--tiny", "--out", str(tmp_path / "dry"), *more]
        surroundings = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env=surroundings
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stderr

    run()
    results = json.loads((tmp_path / "dry.json").read_text())
    assert results["about"]["tiny"] is True
    parts: dict[str, Any] = results["parts"]
    assert list(parts) == list(parts_of(SCRIPT))
    for name, part in parts.items():
        skipped = part["state"] == "skipped" and "not installed" in part["reason"]
        assert part["state"] == "done" or skipped, (name, part["reason"])
        assert all(row.get("right", True) for row in part["rows"]), (name, part["rows"])
    engines = {"dear, padded", "dear, packed", "dear, prefix", "dear, compiled"}
    for size in ("3b", "8b", "13b"):
        compared = {r["what"] for r in parts[f"score-{size}"]["rows"] if r.get("right")}
        assert engines <= compared
    assert "Tiny shapes on a processor" in (tmp_path / "dry.md").read_text()
    # nothing is measured twice
    said = run("--resume", "--parts", "machine,processes")
    assert said.count("was done before") == 2
    assert json.loads((tmp_path / "dry.json").read_text()) == results


def test_the_example_is_marked_as_what_it_is() -> None:
    results = json.loads(DRY.read_text())
    assert results["about"]["tiny"] is True
    assert list(results["parts"]) == list(parts_of(SCRIPT))
    assert "Tiny shapes on a processor" in DRY.with_suffix(".md").read_text()
