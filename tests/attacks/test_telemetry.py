"""No command opens a socket, or writes outside its folders, unless it was asked to."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from ceilings import Ended, attack, attack_python
from command_line import write_animals, write_recipe, write_reranker

QUERY = "what do lions eat"

WATCH = """
import os, sys
_log = os.open(os.environ["SOCKETS"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
_asked = {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto",
          "http.client.connect", "urllib.Request", "smtplib.connect", "ftplib.connect"}
def _seen(event, about):
    if event in _asked:
        import traceback
        said = f"{event} {about!r} {traceback.format_stack(limit=40)}"
        os.write(_log, (said + "\\n").encode("utf-8", "replace"))
sys.addaudithook(_seen)
"""
"""As sitecustomize.py: every process notes what it connects to, its children too."""


MAIN = """
import json, sys
from dear.cli.main import main
for words in json.loads(sys.argv[1]):
    print("STATUS", words[0], main(words), flush=True)
"""


def watched(
    tmp_path: Path, *commands: Sequence[object], code: str = MAIN, seconds: float = 60
) -> tuple[Ended, str]:
    """Commands in a process with a home of its own and the hub allowed; what they tried to reach.

    Not under pytest's eyes, which NNCF looks for.
    """
    home, site, log = tmp_path / "home", tmp_path / "site", tmp_path / "sockets.txt"
    home.mkdir(exist_ok=True)
    site.mkdir(exist_ok=True)
    (site / "sitecustomize.py").write_text(WATCH)
    path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    own = {"HOME": str(home), "SOCKETS": str(log), "PYTHONPATH": path, "HF_HUB_OFFLINE": "0"}
    empty = ("CI", "TF_BUILD", "JENKINS_URL", "XDG_CACHE_HOME", "DEAR_CACHE", "PYTEST_CURRENT_TEST")
    ended = attack(
        *(sys.executable, "-c", code, json.dumps([[*map(str, words)] for words in commands])),
        seconds=seconds,
        mebibytes=3000,
        env={**own, **dict.fromkeys(empty, "")},
        cwd=tmp_path,
    )
    return ended, log.read_text() if log.is_file() else ""


def written(tmp_path: Path) -> list[str]:
    """Files in the home folder, but for our own cache."""
    home = tmp_path / "home"
    files = [path.relative_to(home).as_posix() for path in home.rglob("*") if path.is_file()]
    return [name for name in files if not name.startswith(".cache/dear/")]


@pytest.fixture(scope="session")
def ranker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_reranker(tmp_path_factory.mktemp("ranker") / "r")


@pytest.fixture(scope="session")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_animals(tmp_path_factory.mktemp("collection") / "animals")


def test_the_watch_sees_who_connects(tmp_path: Path) -> None:
    connecting = (
        "import urllib.request\nurllib.request.urlopen('http://localhost:9/x', timeout=1)\n"
    )
    ended, sockets = watched(tmp_path, code=connecting)
    assert ended.status == 1
    assert "localhost" in sockets


def test_no_command_opens_a_socket_or_writes_into_the_home_folder(
    ranker: Path, collection: Path, tmp_path: Path
) -> None:
    (tmp_path / "passages.txt").write_text("lions eat grass\nbirds fly\n")
    labels = tmp_path / "labels"
    recipe = write_recipe(
        tmp_path / "recipe.toml", base=ranker, collection=collection, labels=labels
    )
    bm25, model = ("--run", "bm25"), ("--model", ranker)
    commands: list[tuple[object, ...]] = [
        ("retrieve", collection, "--output", "first.trec", "--split", "test"),
        ("label", collection, *bm25, *model, "-o", labels),
        ("plan", recipe),
        ("train", recipe, "-o", "student"),
        ("rank", collection, *bm25, "--model", "student", "-o", "run.trec"),
        ("rank", collection, *bm25, "--model", f"biencoder:{ranker}", "-o", "other.trec"),
        ("rerank", QUERY, "passages.txt", "--model", "student"),
        ("evaluate", collection, "--run", "run.trec"),
        ("compare", collection, "run.trec", "other.trec"),
        ("report", "report.html", collection, "--run", "run.trec"),
        ("models",),
        ("collections",),
        ("bench", "student", "--collection", collection, "--rounds", 1, "--queries", 2),
    ]
    ended, sockets = watched(tmp_path, *commands)
    for words in commands:
        assert f"STATUS {words[0]} 0" in ended.out, (words, ended.err[-2000:])
    assert not sockets
    assert not written(tmp_path)


def test_an_export_reports_to_nobody(ranker: Path, collection: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    pytest.importorskip("nncf")
    pairs = ("--collection", collection, "--check-queries", 2, "--pairs", 8)
    commands: list[tuple[object, ...]] = [
        ("export", ranker, "-o", "int8", "--dtype", "int8", *pairs),
        ("export", ranker, "-o", "float32", "--dtype", "float32", "--check-queries", 2),
        ("rank", collection, "--run", "bm25", "--model", "int8", "-o", "run.trec"),
    ]
    ended, sockets = watched(tmp_path, *commands)
    assert ended.out.count("STATUS export 0") == 2, ended.err[-2000:]
    assert "STATUS rank 0" in ended.out, ended.err[-2000:]
    assert not sockets
    assert not written(tmp_path)


def test_importing_the_openvino_extra_without_a_command_reports_to_nobody(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    code = (
        "from dear.scoring.engines.openvino import load_openvino\n"
        "load_openvino()\nimport openvino.tools.ovc, nncf, sys\n"
        "assert not any(name.startswith('openvino_telemetry.') for name in sys.modules)\n"
    )
    ended = attack_python(code, seconds=60, mebibytes=2000)
    assert ended.status == 0, ended.err[-2000:]
