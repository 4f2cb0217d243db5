"""Long measurements in parts: one that fails, hangs or dies leaves the others alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.by_hand

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

SCRIPT = """
import os, signal, subprocess, sys, time
from pathlib import Path

sys.path.insert(0, sys.argv[1])
from parts import Part, Skip, is_right, run_parts, write_markdown

def good(report, options):
    report.row("fast", speed=2.5, right=True)
    with open(options, "a") as file:
        file.write("good\\n")

def raises(report, options):
    report.row("before", n=1)
    raise ValueError("no such | thing\\nand more")

def dies(report, options):
    report.row("before", n=float("nan"))
    os.kill(os.getpid(), signal.SIGKILL)

def hangs(report, options):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    report.row("before", child=child.pid)
    time.sleep(600)

def skips(report, options):
    raise Skip("nothing to do")

def wrong(report, options):
    report.row("slow", right=False)

if __name__ == "__main__":
    folder, names = Path(sys.argv[2]), sys.argv[3].split(",")
    works = [Part(n, f"what {n} does", globals()[n], 15 if n == "hangs" else None) for n in names]
    results = run_parts(
        works, folder / "out.json", folder / "calls", about={"card": sys.argv[4]},
        resume="resume" in sys.argv,
    )
    write_markdown(folder / "out.md", "Title", ["Opening."], results)
    sys.exit(0 if is_right(results) else 1)
"""


def run(folder: Path, names: str, *more: str) -> tuple[int, dict[str, Any]]:
    script = folder / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(BENCHMARKS), str(folder), names, *(more or ["a"])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    file = folder / "out.json"
    return done.returncode, json.loads(file.read_text()) if file.is_file() else {}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("mixed")
    return folder, *run(folder, "raises,dies,hangs,skips,good")


def test_every_part_is_recorded_with_what_it_had(mixed: tuple[Path, int, dict[str, Any]]) -> None:
    _, status, results = mixed
    parts = results["parts"]
    states = {name: part["state"] for name, part in parts.items()}
    assert states == {
        "raises": "failed",
        "dies": "failed",
        "hangs": "out of time",
        "skips": "skipped",
        "good": "done",
    }
    assert parts["raises"]["reason"] == "ValueError: no such | thing"
    assert "SIGKILL" in parts["dies"]["reason"]
    assert parts["skips"]["reason"] == "nothing to do"
    assert [row["what"] for row in parts["raises"]["rows"]] == ["before"]
    assert parts["dies"]["rows"] == [{"what": "before", "n": "nan"}]
    assert parts["good"]["rows"] == [{"what": "fast", "speed": 2.5, "right": True}]
    assert status == 1


def test_what_a_part_started_is_ended_with_it(mixed: tuple[Path, int, dict[str, Any]]) -> None:
    (row,) = mixed[2]["parts"]["hangs"]["rows"]
    status = Path(f"/proc/{row['child']}/status")
    assert not status.is_file() or "State:\tZ" in status.read_text()


def test_the_page_says_all_of_it(mixed: tuple[Path, int, dict[str, Any]]) -> None:
    page = (mixed[0] / "out.md").read_text()
    assert page.startswith("# Title\n\nOpening.\n")
    assert "failed: ValueError: no such | thing" in page
    assert "| fast | 2.5 | yes |" in page
    assert not list(mixed[0].glob("*.part"))


def test_going_on_runs_only_what_was_not_done(tmp_path: Path) -> None:
    assert run(tmp_path, "good")[0] == 0
    status, results = run(tmp_path, "good,wrong", "a", "resume")
    assert list(results["parts"]) == ["good", "wrong"]
    assert (tmp_path / "calls").read_text() == "good\n"
    assert status == 1  # what is wrong is no success
    # another machine's results are not mixed with these
    assert run(tmp_path, "good", "b", "resume")[0] != 0
    assert (tmp_path / "calls").read_text() == "good\n"
    run(tmp_path, "good")
    assert (tmp_path / "calls").read_text() == "good\ngood\n"
