"""`dear serve` under load, beside other servers of the same weights.

    python benchmarks/serving.py --data FOLDER --work FOLDER [--infinity PYTHON] [--only load,…]

load:      requests of a dl19 query with its 100 passages of BM25, by 1, 8, 32 and 128 clients that
           ask again as soon as they are answered: requests a second, p50 and p99 in seconds, peak
           memory. Systems take turns at each number of clients:
             dear            `dear serve --dtype float32`, by the runtime that auto takes
             dear, auto      `dear serve`
             fastapi         FastAPI around sentence-transformers' CrossEncoder, float32
             infinity        infinity_emb in an environment of its own (--infinity), float32
overload:  four times as many requests in a second as `dear, auto` answers, for a minute: p99 of
           what is accepted, what is refused, and the p99 at full load.
small:     requests of 5 passages, alone and beside one of 10,000, one after another: p50, p99.
memory:    10,000 requests of 5 passages: memory in use along the way.
start:     from the command to the first answer, with the export made before; `first_s` makes it.

The weights are MiniLM's with a head of random numbers that gives scores a spread: what is timed
does not depend on them. Clients are threads of this process; all traffic is on loopback. Written to
benchmarks/results/serving.json, a part at a time.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from threads import one_logit

from dear.artifacts import read_json, write_json
from dear.bench.machine import describe
from dear.data.collections import open_collection
from dear.records import gather

CLIENTS = "1,8,32,128"
LEAST_REQUESTS = 8
"""Of each number of clients; as many as there are clients, where these are more."""
PASSAGES = 100

FASTAPI = """
import sys
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from sentence_transformers import CrossEncoder

model, app = CrossEncoder(sys.argv[1], max_length=512), FastAPI()

class Body(BaseModel):
    query: str
    documents: list[str]

@app.post("/rerank")
def rerank(body: Body):
    scores = model.predict([(body.query, text) for text in body.documents])
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    return {"results": [{"index": i, "relevance_score": float(scores[i])} for i in order]}

uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="warning")
"""


@dataclass
class Process:
    """A server that answers at `port`."""

    port: int
    pid: int

    def memory_mib(self, what: str = "VmHWM") -> float:
        """Peak, or with VmRSS now; of the process and its children."""
        pids = [self.pid]
        for pid in pids:
            children = Path(f"/proc/{pid}/task/{pid}/children")
            pids += map(int, children.read_text().split()) if children.exists() else []
        text = "".join(Path(f"/proc/{pid}/status").read_text() for pid in pids)
        return round(sum(int(kb) for kb in re.findall(rf"{what}:\s+(\d+)", text)) / 1024, 1)


def free_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@contextmanager
def started(command: Sequence[str], port: int, path: str = "/rerank") -> Iterator[Process]:
    """A server once it answers."""
    with tempfile.TemporaryFile() as log:
        child = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            _answers(child, port, path, log)
            yield Process(port, child.pid)
        finally:
            child.terminate()
            child.wait(60)


def _answers(child: subprocess.Popen[bytes], port: int, path: str, log: Any) -> None:
    """Returns when it does."""
    end = time.monotonic() + 180
    while True:
        try:
            ask(port, path, {"query": "a", "documents": ["b", "c"]})
            return
        except OSError:
            if child.poll() is not None or time.monotonic() > end:
                log.seek(0)
                sys.exit(f"it does not start: {log.read()[-2000:].decode()}")
            time.sleep(0.05)


def ask(port: int, path: str, body: Any) -> tuple[int, dict[str, str]]:
    """(status, headers)"""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    try:
        headers = {"Content-Type": "application/json"}
        connection.request("POST", path, json.dumps(body), headers)
        response = connection.getresponse()
        response.read()
        return response.status, {k.lower(): v for k, v in response.getheaders()}
    finally:
        connection.close()


def dear(model: Path, port: int, *words: str) -> list[str]:
    start = [sys.executable, "-m", "dear", "serve", str(model), "--contract", "plain"]
    return [*start, "--port", str(port), "--max-wait", "1000", "--quiet", *words]


def systems(model: Path, infinity: str | None) -> dict[str, tuple[list[str], int]]:
    """Name → (command, port)."""
    ports = [free_port() for _ in range(4)]
    found = {
        "dear": (dear(model, ports[0], "--dtype", "float32"), ports[0]),
        "dear, auto": (dear(model, ports[1]), ports[1]),
        "fastapi": ([sys.executable, "-c", FASTAPI, str(model), str(ports[2])], ports[2]),
    }
    if infinity:
        command = [str(Path(infinity).with_name("infinity_emb")), "v2", "--model-id", str(model)]
        command += ["--port", str(ports[3]), "--host", "127.0.0.1", "--device", "cpu"]
        command += ["--engine", "torch", "--dtype", "float32", "--no-bettertransformer"]
        found["infinity"] = (command, ports[3])
    return found


def bodies(data: Path, model: str) -> list[dict[str, Any]]:
    """dl19's queries, each with the best passages of BM25."""
    collection = open_collection(data / "dl19")
    queries, corpus = collection.queries("test"), collection.corpus
    run = collection.run("bm25", "test")
    found = []
    for ranking in run.values():
        one = gather(ranking.top(PASSAGES), queries, corpus)
        texts = [passage.full_text for passage in one.passages]
        found.append({"query": one.query.text, "documents": texts, "model": model})
    return found


def closed_loop(port: int, requests: Sequence[Any], clients: int, number: int) -> dict[str, Any]:
    """`number` requests by so many clients, each asking again as soon as it is answered."""
    lock, turn, seconds, statuses = threading.Lock(), iter(range(number)), [], []

    def client() -> None:
        while True:
            with lock:
                at = next(turn, None)
            if at is None:
                return
            while True:  # as clients do that are told to come again
                begun = time.perf_counter()
                status, headers = ask(port, "/rerank", requests[at % len(requests)])
                if status != 429:
                    break
                time.sleep(float(headers["retry-after"]))
            with lock:
                statuses.append(status)
                if status == 200:
                    seconds.append(time.perf_counter() - begun)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    started_at = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wall = time.perf_counter() - started_at
    failed = sum(status != 200 for status in statuses)
    return {
        "requests": number,
        "failed": failed,
        "per_s": round((number - failed) / wall, 3),
        **times(seconds),
    }


def times(seconds: Sequence[float]) -> dict[str, float]:
    ranked = sorted(seconds)
    return {
        "p50_s": round(statistics.median(ranked), 4),
        "p99_s": round(ranked[min(len(ranked) - 1, int(0.99 * len(ranked)))], 4),
    }


def load(options: argparse.Namespace, model: Path) -> dict[str, Any]:
    rows: dict[str, Any] = {}
    requests = bodies(options.data, str(model))
    with ExitStack() as stack:
        running = {
            name: stack.enter_context(started(command, port))
            for name, (command, port) in systems(model, options.infinity).items()
        }
        for name, server in running.items():  # what is done once is done
            closed_loop(server.port, requests, 1, 2)
            rows[name] = {}
        for clients in map(int, options.clients.split(",")):
            for name, server in running.items():
                found = closed_loop(server.port, requests, clients, max(clients, LEAST_REQUESTS))
                rows[name][str(clients)] = found | {"peak_mib": server.memory_mib()}
                print(f"{clients} clients, {name}: {rows[name][str(clients)]}", flush=True)
    ratios = ratios_of(rows)
    print(ratios, flush=True)
    return {"passages": PASSAGES, "systems": rows, "ratios": ratios}


def ratios_of(rows: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Requests a second of ours over those of others."""
    return {
        f"{mine} / {other}": {
            clients: round(rows[mine][clients]["per_s"] / found["per_s"], 2)
            for clients, found in rows[other].items()
        }
        for mine in ("dear", "dear, auto")
        for other in ("fastapi", "infinity")
        if other in rows
    }


def overload(options: argparse.Namespace, model: Path) -> dict[str, Any]:
    requests, port = bodies(options.data, str(model)), free_port()
    command = [word for word in dear(model, port) if word not in ("--max-wait", "1000")]
    command += ["--max-wait", "3"]
    with started(command, port) as server:
        closed_loop(port, requests, 1, 4)
        full = closed_loop(port, requests, 4, 48)  # more would wait too long already
        found = open_loop(port, requests, 4 * full["per_s"], options.seconds)
        after = closed_loop(port, requests, 1, 4)
        peak = server.memory_mib()
    found = {"full_load": full, "at_four_times": found, "afterwards": after, "peak_mib": peak}
    found["p99_ratio"] = round(found["at_four_times"]["p99_s"] / full["p99_s"], 2)
    print(f"overload: {found}", flush=True)
    return found


def open_loop(port: int, requests: Sequence[Any], rate: float, seconds: float) -> dict[str, Any]:
    """So many requests in a second, whether they are answered or not."""
    lock, done = threading.Lock(), []
    threads = []

    def one(at: int) -> None:
        begun = time.perf_counter()
        try:
            status, headers = ask(port, "/rerank", requests[at % len(requests)])
        except OSError:
            status, headers = 0, {}
        with lock:
            done.append((status, time.perf_counter() - begun, "retry-after" in headers))

    begun = time.perf_counter()
    for at in range(int(rate * seconds)):
        time.sleep(max(0.0, begun + at / rate - time.perf_counter()))
        threads.append(threading.Thread(target=one, args=(at,)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    accepted = [s for status, s, _ in done if status == 200]
    refused = [(status, s, told) for status, s, told in done if status in (429, 503)]
    return {
        "asked": len(done),
        "accepted": len(accepted),
        "refused": len(refused),
        "refused_with_retry_after": sum(told for _, _, told in refused),
        "refused_p99_s": times([s for _, s, _ in refused])["p99_s"] if refused else None,
        "other": len(done) - len(accepted) - len(refused),
        **times(accepted),
    }


def small(options: argparse.Namespace, model: Path) -> dict[str, Any]:
    requests, port = bodies(options.data, str(model)), free_port()
    few = [{**one, "documents": one["documents"][:5]} for one in requests]
    texts = [text for one in requests for text in one["documents"]]
    many = {"query": requests[0]["query"], "documents": (texts * 10)[:10_000]}
    words = ("--max-client-batch-size", "10000", "--payload-limit", str(10**8))
    with started(dear(model, port, *words), port):
        closed_loop(port, few, 1, 20)
        alone = closed_loop(port, few, 1, 200)
        large: list[float] = []

        def ask_large() -> None:
            begun = time.perf_counter()
            ask(port, "/rerank", many)
            large.append(round(time.perf_counter() - begun, 2))

        thread = threading.Thread(target=ask_large)
        thread.start()
        time.sleep(1)
        seconds = []
        while thread.is_alive() and len(seconds) < 200:
            begun = time.perf_counter()
            ask(port, "/rerank", few[len(seconds) % len(few)])
            seconds.append(time.perf_counter() - begun)
        thread.join()
    found = {
        "alone": alone,
        "beside": {"requests": len(seconds), **times(seconds), "large_s": large[0]},
        "p99_ratio": round(times(seconds)["p99_s"] / alone["p99_s"], 2),
    }
    print(f"small: {found}", flush=True)
    return found


def memory(options: argparse.Namespace, model: Path) -> dict[str, Any]:
    requests, port = bodies(options.data, str(model)), free_port()
    few = [{**one, "documents": one["documents"][:5]} for one in requests]
    rows = []
    with started(dear(model, port), port) as server:
        for done in range(0, 10_000, 1000):
            closed_loop(port, few, 8, 1000)
            rows.append({"requests": done + 1000, "mib": server.memory_mib("VmRSS")})
            print(f"memory: {rows[-1]}", flush=True)
    return {"rows": rows, "last_over_first": round(rows[-1]["mib"] / rows[0]["mib"], 3)}


def start(options: argparse.Namespace, model: Path) -> dict[str, Any]:
    found = []
    with tempfile.TemporaryDirectory() as cache:
        os.environ["DEAR_CACHE"] = cache
        for _ in range(4):
            port, begun = free_port(), time.perf_counter()
            with started(dear(model, port), port):
                found.append(round(time.perf_counter() - begun, 2))
    print(f"start: {found}", flush=True)
    return {"first_s": found[0], "seconds": found[1:]}


PARTS: dict[str, Callable[[argparse.Namespace, Path], dict[str, Any]]] = {
    "load": load,
    "overload": overload,
    "small": small,
    "memory": memory,
    "start": start,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--infinity", help="the interpreter of an environment that has it")
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--clients", default=CLIENTS, help="of load")
    parser.add_argument("--seconds", type=float, default=60.0, help="of overload")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/serving.json"))
    options = parser.parse_args()
    os.environ["DEAR_CACHE"] = str(options.work.resolve() / "cache")
    os.environ["OMP_NUM_THREADS"] = str(os.cpu_count())
    model = options.work / "minilm-l6"
    if not (model / "config.json").is_file():
        some = [(b["query"], t) for b in bodies(options.data, "") for t in b["documents"][:5]]
        model = one_logit("minilm-l6", str(options.work), some)
        (model / "scoring_contract.json").unlink(missing_ok=True)
    for name in options.only.split(","):
        found = PARTS[name](options, model)
        known = read_json(options.output) if options.output.is_file() else {}
        write_json(options.output, known | {"machine": describe(), name: found})


if __name__ == "__main__":
    main()
