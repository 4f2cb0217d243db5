"""Do the clients that people have work with `dear serve`, as they come from the package index?

    python benchmarks/clients.py [--work FOLDER] [--only sdk_cohere,plain_curl]

Each script in benchmarks/clients/ uses one client, unchanged, in an environment without DeAR or
torch, against two real servers on loopback: one without a key, one with. Looked at are the order
and the scores (those of /dear/rerank), and what the client raises for a wrong key and for no
documents. The table goes to benchmarks/results/clients.json, with the requests as they went over
the wire; tests/serve/test_clients.py sends these again. Environments are made with `uv` where there
is one, else with pip, and used again when they are complete.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.client import parse_headers
from pathlib import Path
from typing import Any

from dear.artifacts import read_json, write_json

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "clients.json"
MODEL = "biencoder:minilm-l6"
KEY = "a-key-of-the-benchmark"
LIMIT_S = 600

ENVIRONMENTS = {
    "cohere": [
        "cohere>=7,<8",
        "voyageai",
        "litellm",
        "haystack-ai",
        "cohere-haystack",
        "jina-haystack",
        "rerankers",
        "requests",
    ],
    # these two bring older releases of cohere
    "langchain": ["langchain-core", "langchain-cohere"],
    "llamaindex": [
        "llama-index-core",
        "llama-index-postprocessor-cohere-rerank",
        "llama-index-postprocessor-jinaai-rerank",
        "llama-index-postprocessor-tei-rerank",
    ],
}
RUNS = [
    ("plain_curl", "cohere"),
    ("sdk_cohere", "cohere"),
    ("sdk_cohere", "langchain"),
    ("sdk_voyage", "cohere"),
    ("router_litellm", "cohere"),
    ("haystack_rankers", "cohere"),
    ("rerankers_api", "cohere"),
    ("langchain_compressor", "langchain"),
    ("llamaindex_postprocessors", "llamaindex"),
]
"""(script, environment)."""

ELSEWHERE = {
    "LangChain's JinaRerank (langchain-community)": "its address is a constant of the module",
}
"""Clients that cannot be pointed at another address, and why."""

KEPT = ("content-type", "accept", "accept-encoding", "authorization")
"""Headers of a request that a server may look at."""


# -- environments --------------------------------------------------------------------------------


def environment(name: str, work: Path) -> Path:
    """Its python."""
    folder = work / name
    python = folder / "bin" / "python"
    done = folder / "complete"
    wanted = "\n".join(ENVIRONMENTS[name])
    if done.exists() and done.read_text() == wanted:
        return python
    uv = shutil.which("uv")
    if not python.exists():
        make = [uv, "venv", "--python", sys.executable] if uv else [sys.executable, "-m", "venv"]
        subprocess.run([*make, str(folder)], check=True)
    install = [uv, "pip", "install", "--python"] if uv else []
    command = [*install, str(python)] if uv else [str(python), "-m", "pip", "install"]
    subprocess.run([*command, *ENVIRONMENTS[name]], check=True)
    done.write_text(wanted)
    return python


def variables(work: Path) -> dict[str, str]:
    """For a client: nothing of ours, and nothing that it fetches or tells on its own."""
    home = work / "home"
    home.mkdir(exist_ok=True)
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "NO_PROXY": "127.0.0.1",
        "HF_HUB_OFFLINE": "1",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "HAYSTACK_TELEMETRY_ENABLED": "False",
    }


# -- servers -------------------------------------------------------------------------------------


@contextlib.contextmanager
def serving(log: Path, *words: str) -> Iterator[str]:
    """The address of a real server."""
    command = [sys.executable, "-m", "dear", "serve", MODEL, "--port", "0", *words]
    with log.open("w") as errors, subprocess.Popen(command, stderr=errors) as process:
        try:
            yield _address(process, log)
        finally:
            process.terminate()


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    ends = time.monotonic() + LIMIT_S
    while time.monotonic() < ends and process.poll() is None:
        found = re.search(r"listening at (http://\S+)", log.read_text())
        if found:
            return found[1]
        time.sleep(0.2)
    raise SystemExit(f"no server: {log.read_text()}")


class Recorder:
    """Passes bytes to a server and back as they are, and keeps what was asked. label: of what is
    asked now; None: not kept."""

    def __init__(self, address: str) -> None:
        host, port = address.removeprefix("http://").split(":")
        self.server = (host, int(port))
        self.label: str | None = None
        self.requests: dict[str, bytes] = {}
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self.listening.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            client, _ = self.listening.accept()
            server = socket.create_connection(self.server)
            threading.Thread(target=self._pass, args=(client, server, True), daemon=True).start()
            threading.Thread(target=self._pass, args=(server, client, False), daemon=True).start()

    def _pass(self, one: socket.socket, other: socket.socket, kept: bool) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                if kept and self.label is not None:
                    self.requests[self.label] = self.requests.get(self.label, b"") + data
                other.sendall(data)
            other.shutdown(socket.SHUT_WR)

    def asked(self, label: str) -> dict[str, Any] | None:
        """The one request of a call."""
        if label not in self.requests:
            return None
        stream = io.BytesIO(self.requests[label])
        method, path, _ = stream.readline().decode().split()
        headers = parse_headers(stream)
        body = json.loads(stream.read(int(headers["content-length"])))
        if stream.read():
            raise SystemExit(f"{label}: more than one request")
        kept = {name: headers[name] for name in KEPT if name in headers}
        return {"method": method, "path": path, "headers": kept, "body": body}


def expected(address: str) -> list[tuple[int, float]]:
    """What is true: our own dialect's answer."""
    sys.path.insert(0, str(HERE / "clients"))
    from common import DOCUMENTS, QUERY

    body = json.dumps({"query": QUERY, "documents": DOCUMENTS}).encode()
    request = urllib.request.Request(f"{address}/dear/rerank", body)
    with urllib.request.urlopen(request) as answer:
        return [(one["index"], one["score"]) for one in json.load(answer)["results"]]


# -- clients -------------------------------------------------------------------------------------


def run(script: str, python: Path, names: dict[str, str], recorder: Recorder) -> list[Any]:
    """Rows of a script. The last one says so if it did not come to its end."""
    command = [str(python), str(HERE / "clients" / f"{script}.py")]
    rows: list[Any] = []
    with subprocess.Popen(
        command, env=names, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        ends = threading.Timer(LIMIT_S, process.kill)
        ends.start()
        for line in process.stdout:
            if not line.startswith("dear "):
                continue
            told = json.loads(line.removeprefix("dear "))
            if "row" in told:
                row = told["row"]
                rows.append({"client": script, **row, "request": recorder.asked(row["call"])})
            else:
                recorder.label = told["begin"]
            process.stdin.write("\n")
            process.stdin.flush()
        ends.cancel()
    recorder.requests.clear()
    if process.returncode:
        rows.append({"client": script, "call": "", "ended": process.returncode})
    return rows


def good(row: dict[str, Any]) -> bool:
    checks = ("ranks", "with key", "wrong key", "no documents")
    return all(row.get(one, {}).get("ok", False) for one in checks)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("runs/clients"))
    parser.add_argument("--only", default="", help="scripts, with commas between them")
    parser.add_argument("--results", type=Path, default=RESULTS)
    words = parser.parse_args()
    only = words.only.split(",") if words.only else [script for script, _ in RUNS]
    work = words.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    runs = [(script, name) for script, name in RUNS if script in only]
    pythons = {name: environment(name, work) for name in dict.fromkeys(name for _, name in runs)}
    rows: list[Any] = []
    with (
        serving(work / "free.log") as free,
        serving(work / "keyed.log", "--api-key", KEY) as keyed,
    ):
        recorder = Recorder(free)
        names = {
            **variables(work),
            "DEAR_FREE": recorder.address,
            "DEAR_KEYED": keyed,
            "DEAR_KEY": KEY,
            "DEAR_EXPECTED": json.dumps(expected(free)),
        }
        for script, name in runs:
            found = run(script, pythons[name], names, recorder)
            for row in found:
                row["ok"] = good(row)
                print("ok " if row["ok"] else "BAD", script, row["call"], flush=True)
                if not row["ok"]:
                    print(json.dumps(row, indent=1))
            rows += found
    if words.only and words.results.exists():
        kept = [row for row in read_json(words.results)["calls"] if row["client"] not in only]
        order = [script for script, _ in RUNS]
        rows = sorted(kept + rows, key=lambda row: order.index(row["client"]))
    write_json(words.results, {"model": MODEL, "calls": rows, "cannot_be_pointed": ELSEWHERE})
    return int(not all(row["ok"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
