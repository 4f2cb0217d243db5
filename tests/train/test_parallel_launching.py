"""Starting processes, and that none of them outlives the others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from dear.errors import BackendError, ConfigError
from dear.steps.options import LaunchOptions
from dear.steps.train import _places
from dear.train.launching import PORT, Launch, launch

TWO = Launch(processes=2, on_cpu=True)
START = """
import os, pathlib, signal, sys, time
rank = int(os.environ["RANK"])
folder = pathlib.Path(sys.argv[1])
(folder / f"{os.getpid()}.pid").touch()
while len(list(folder.glob("*.pid"))) < 2:
    time.sleep(0.01)
"""


def run(folder: Path, what: str, places: Launch = TWO) -> int:
    """`what` in two processes that know their rank; all must be gone afterwards."""
    started = time.monotonic()
    try:
        return launch([str(folder)], places, program=(sys.executable, "-c", START + what))
    finally:
        # a second on an idle machine; who waits for the others sleeps for an hour
        assert time.monotonic() - started < 200
        assert_gone(folder)


def assert_gone(folder: Path) -> None:
    for file in folder.glob("*.pid"):
        with pytest.raises(ProcessLookupError):
            os.kill(int(file.stem), 0)


def test_all_well(tmp_path: Path) -> None:
    assert run(tmp_path, "(folder / f'{rank}.done').touch()") == 0
    assert len(list(tmp_path.glob("*.done"))) == 2


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_others_and_is_named(tmp_path: Path, victim: int) -> None:
    what = f"""
if rank == {victim}:
    os.kill(os.getpid(), signal.SIGKILL)
time.sleep(3600)
"""
    with pytest.raises(BackendError, match=rf"process {victim} of 2 was killed \(SIGKILL\); the s"):
        run(tmp_path, what)


def test_the_words_of_a_silent_process_are_told(tmp_path: Path) -> None:
    what = """
if rank == 1:
    print("a warning", file=sys.stderr)
    print("dear: error: no memory", file=sys.stderr)
    sys.exit(2)
time.sleep(3600)
"""
    with pytest.raises(BackendError, match="process 1 of 2: no memory; the same command goes on"):
        run(tmp_path, what)


def test_what_all_say_is_said_by_the_first(tmp_path: Path) -> None:
    # the second ends first
    assert run(tmp_path, "time.sleep(0.5 * (1 - rank)); sys.exit(2)") == 2


# in a process of its own: a test runner that shares this one's interrupts ends by them
INTERRUPTED = """
import signal, sys
from dear.cli.main import ended_by_signals
from dear.train.launching import Launch, launch
signal.signal(signal.SIGINT, signal.default_int_handler)
before = signal.getsignal(signal.SIGTERM)
try:
    program = (sys.executable, "-c", sys.argv[1])
    with ended_by_signals():
        launch(sys.argv[2:], Launch(processes=2, on_cpu=True), program=program)
except KeyboardInterrupt:
    assert signal.getsignal(signal.SIGTERM) is before
    sys.exit(130)
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_an_interrupt_ends_all(tmp_path: Path, name: str) -> None:
    arguments = (START + "time.sleep(3600)", str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", INTERRUPTED, *arguments]) as process:
        try:
            until = time.monotonic() + 200
            while len(list(tmp_path.glob("*.pid"))) < 2:
                assert process.poll() is None
                assert time.monotonic() < until
                time.sleep(0.01)
            process.send_signal(getattr(signal, name))
            assert process.wait(200) == 130
        finally:
            process.kill()
    assert_gone(tmp_path)


def test_a_process_that_does_not_want_to_end_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dear.train.launching._END_S", 0.2)
    what = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
(folder / f"{rank}.deaf").touch()
while not (folder / "0.deaf").exists():
    time.sleep(0.01)
if rank == 1:
    os.kill(os.getpid(), signal.SIGKILL)
time.sleep(3600)
"""
    with pytest.raises(BackendError, match="process 1"):
        run(tmp_path, what)


def test_each_process_gets_what_torchrun_would_give_it() -> None:
    second = Launch(processes=4, nodes=2, node_rank=1, address="node0").environments()
    assert [e["RANK"] for e in second] == ["4", "5", "6", "7"]
    assert [e["LOCAL_RANK"] for e in second] == ["0", "1", "2", "3"]
    assert {e["WORLD_SIZE"] for e in second} == {"8"}
    assert {(e["MASTER_ADDR"], e["MASTER_PORT"]) for e in second} == {("node0", str(PORT))}
    assert "CUDA_VISIBLE_DEVICES" not in second[0]
    (one, _) = TWO.environments()
    assert one["CUDA_VISIBLE_DEVICES"] == ""
    ported = Launch(processes=1, nodes=2, address="node0:123").environments()
    assert ported[0]["MASTER_PORT"] == "123"


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"processes": 0}, "at least one process"),
        ({"processes": 1, "nodes": 2, "node_rank": 2, "main_address": "a"}, "numbered from 0"),
        ({"processes": 1, "nodes": 2}, "2 nodes need --main-address HOST"),
        ({"processes": 1, "nodes": 2, "main_address": "a:b"}, "expected HOST or HOST:PORT"),
        ({"processes": 1, "gpus": 1}, "either --gpus or --processes"),
        ({"nodes": 2}, "go with --gpus"),
        ({"gpus": 4096}, "PyTorch sees"),
        ({"processes": 2, "kind": "biencoder"}, "a biencoder model trains in one process"),
    ],
)
def test_wrong_places_are_refused(
    options: dict[str, Any], problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    kind = options.get("kind", "pointwise")
    asked = {key: value for key, value in options.items() if key != "kind"}
    with pytest.raises(ConfigError, match=problem):
        _places(kind, LaunchOptions(**asked))


def test_under_another_launcher_nothing_is_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="a launcher has started this process"):
        _places("pointwise", LaunchOptions(processes=2))
    assert _places("pointwise", LaunchOptions()) is None


def test_the_status_is_that_of_the_first() -> None:
    assert launch(["train", "no-such-recipe", "--output", "x"], Launch(processes=1)) == 2
