"""`dear serve` as a process: its options, its first line, its end."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import CORPUS, write_reranker

pytestmark = pytest.mark.server

RUNTIME = {"DEAR_RUNTIME": "torch"}
"""No export is made for each model."""

BODY = {"query": "how does the whale eat", "documents": [p.text for p in CORPUS.values()]}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_reranker(tmp_path_factory.mktemp("served") / "model")


class Process:
    """A server in a process of its own; `url` once it answers."""

    def __init__(self, words: list[object], environ: dict[str, str]) -> None:
        self.child = subprocess.Popen(
            [sys.executable, "-m", "dear", "serve", *map(str, words)],
            env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **RUNTIME, **environ},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.lines: list[str] = []
        self.url = ""
        assert self.child.stderr is not None
        for line in self.child.stderr:
            self.lines.append(line.rstrip("\n"))
            if found := re.search(r"listening at (\S+)", line):
                self.url = found[1]
                break
        self.rest = threading.Thread(target=self._read)
        self.rest.start()

    def _read(self) -> None:
        assert self.child.stderr is not None
        self.lines += [line.rstrip("\n") for line in self.child.stderr]

    def ask(self, path: str, body: Any = None, key: str = "") -> Any:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers)
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.loads(response.read() or b"null")

    def end(self, number: int = signal.SIGTERM) -> int:
        self.child.send_signal(number)
        return self.ended()

    def ended(self) -> int:
        status = self.child.wait(60)
        self.rest.join(30)
        return status


@contextlib.contextmanager
def process(*words: object, **environ: str) -> Iterator[Process]:
    found = Process(list(words), environ)
    try:
        yield found
    finally:
        if found.child.poll() is None:
            found.child.kill()
        found.ended()
        for stream in (found.child.stdout, found.child.stderr):
            assert stream is not None
            stream.close()


def test_flags_beat_the_environment_which_beats_the_file(model: Path, tmp_path: Path) -> None:
    config = tmp_path / "serve.toml"
    config.write_text(
        f'models = ["from-file={model}"]\nport = 1\nmax_client_batch_size = 3\n'
        'default-dialect = "vllm"\napi-key = ["secret"]\n'
    )
    with process(
        "--config", config, "--port", 0, DEAR_DEFAULT_DIALECT="infinity", DEAR_PORT="2"
    ) as server:
        assert "with a key" in server.lines[-1]
        info = server.ask("/info", key="secret")
        assert info["models"][0]["id"] == "from-file"
        assert info["max_client_batch_size"] == 3
        assert info["shared_paths"]["default"] == "infinity"
        small = {**BODY, "documents": BODY["documents"][:3]}
        assert server.ask("/rerank", small, key="secret")["object"] == "rerank"
        assert server.end() == 0
        assert server.lines[-1] == "dear: stopped"
        logged = json.loads(server.lines[-2])
        assert (logged["status"], logged["documents"]) == (200, 3)


def test_a_signal_under_load_lets_requests_end(model: Path) -> None:
    large = {**BODY, "documents": [f"{text} {n}" for n in range(40) for text in BODY["documents"]]}
    with process(model, "--port", 0, "--dtype", "float32", "--max-batch-tokens", 64) as server:
        found: list[Any] = []
        asking = threading.Thread(target=lambda: found.append(server.ask("/dear/rerank", large)))
        asking.start()
        while b"dear_in_flight{" not in (page := metrics(server)) or b"} 1.0" not in page:
            time.sleep(0.01)
        assert server.end() == 0
        asking.join(60)
        assert len(found[0]["results"]) == len(large["documents"])


def metrics(server: Process) -> bytes:
    with urllib.request.urlopen(f"{server.url}/metrics", timeout=30) as response:
        page = response.read()
    start = page.find(b"dear_in_flight{")
    return bytes(page[start : page.find(b"\n", start)])


def test_ctrl_c_ends_it(model: Path) -> None:
    with process(model, "--port", 0) as server:
        assert server.ask("/health") is None
        assert server.end(signal.SIGINT) == 0


def test_what_does_not_start_says_why_in_one_line(model: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.toml"
    wrong.write_text("prot = 8000\n")
    broken = tmp_path / "broken.toml"
    broken.write_text("port = \n")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for words, message in (
            (["no-such-model", "--port", 0], "no-such-model"),
            ([model, "--port", port], f"port {port}: Address already in use"),
            (["--config", wrong], "'prot' is no option of dear serve; did you mean 'port'?"),
            (["--config", broken], "broken.toml"),
            ([model, "--port", 0, "--api-key", ""], "an API key is empty"),
            ([model, "--port", 0, "--min-probability", 0.5], "no map"),
            ([model, "--port", 0, "--default-dialect", "openai"], "no dialect 'openai'"),
        ):
            with process(*words) as server:
                assert server.ended() == 2
                assert server.url == ""
                assert server.lines[-1].startswith("dear: error: ")
                assert message in server.lines[-1], server.lines


def test_without_the_extra_one_line_says_what_to_install(model: Path, tmp_path: Path) -> None:
    (tmp_path / "uvicorn.py").write_text("raise ModuleNotFoundError('x', name='uvicorn')\n")
    with process(
        model, "--port", 0, PYTHONPATH=f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"
    ) as s:
        assert s.ended() == 2
        assert "pip install 'dear-rerank[serve]'" in s.lines[-1]
