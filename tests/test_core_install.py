"""What works without PyTorch, transformers, pyarrow, and where there is no POSIX."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BLOCKED = """
import sys

class Blocked:
    names = {names!r}

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocked())
from dear.cli.main import main
sys.exit(main())
"""
EXTRAS = ("torch", "transformers", "pyarrow", "openvino", "peft", "accelerate", "numba")
POSIX = ("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "posix_ipc")
"""Modules that Windows does not have."""

QUERY = "how do bees tell others where food is"
PASSAGES = [
    "A hive is a box in which bees live.",
    "Python opens a file with open().",
    "The waggle dance of the honey bee tells others the direction and distance of flowers.",
    "Flowers give nectar, which bees turn into honey.",
]


def dear(
    *arguments: str | Path, cwd: Path, blocked: tuple[str, ...] = EXTRAS
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", BLOCKED.format(names=blocked), *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "COLUMNS": "120"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A collection of plain files."""
    root = tmp_path_factory.mktemp("core")
    (root / "facts.txt").write_text("\n".join(PASSAGES), encoding="utf-8")
    rows = [{"_id": f"p{at}", "text": text} for at, text in enumerate(PASSAGES)]
    (root / "bees" / "qrels").mkdir(parents=True)
    lines = "\n".join(json.dumps(row) for row in rows)
    (root / "bees" / "corpus.jsonl").write_text(lines, encoding="utf-8")
    (root / "bees" / "queries.jsonl").write_text(json.dumps({"_id": "q", "text": QUERY}))
    (root / "bees" / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\tp2\t1\n")
    return root


def test_the_first_command(folder: Path) -> None:
    done = dear("rerank", QUERY, "facts.txt", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["model"] == "built-in"
    assert found["results"][0]["id"] == "3"
    assert found["results"][-1]["text"] == PASSAGES[1]


@pytest.mark.parametrize("blocked", [EXTRAS, (*EXTRAS, *POSIX)])
def test_from_a_collection_to_a_comparison(
    folder: Path, tmp_path: Path, blocked: tuple[str, ...]
) -> None:
    bees, first, ranked = folder / "bees", tmp_path / "bm25.trec", tmp_path / "ranked.trec"
    steps = [
        ("retrieve", bees, "--output", first),
        ("rank", bees, "--run", first, "--model", "built-in", "--output", ranked),
        ("evaluate", bees, "--run", first, "--run", ranked),
        ("compare", bees, first, ranked),
        ("report", tmp_path / "report.html", bees, "--run", first, "--run", ranked),
    ]
    for step in steps:
        done = dear(*step, cwd=tmp_path, blocked=blocked)
        assert done.returncode == 0, (step, done.stdout, done.stderr)
    note = json.loads(next(tmp_path.glob("ranked*.json")).read_text())
    assert note["model"] == "built-in"
    assert {part["weight"] for part in note["mixture"]} == {0.2, 0.6}
    assert ranked.read_text().startswith("q Q0 p2 1 ")


@pytest.mark.parametrize(
    "command",
    [
        ("label", "bees", "--model", "minilm-l6", "--run", "x", "--output", "labels"),
        ("rerank", "a", "facts.txt", "--model", "biencoder:minilm-l6"),
        ("train", "nano/student-ce", "--output", "here"),
    ],
)
def test_what_needs_more_says_so_in_one_line(folder: Path, command: tuple[str, ...]) -> None:
    done = dear(*command, cwd=folder)
    assert done.returncode == 2
    assert "pip install 'dear-rerank[" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
