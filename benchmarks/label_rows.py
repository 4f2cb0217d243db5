"""A label store of a hundred million rows: opening it, the labels of a batch, verify and merge.

    python benchmarks/label_rows.py --work FOLDER [--rows 100000000] [--shards 2]

Made-up labels, 100 passages a query, in the files that `dear label --shard` writes (4,096 pairs in
the mean). Each figure is that of a process of its own: seconds, and the most that the process held
(VmHWM, and of it what is no mapped file). A batch is 64 queries x 16 passages drawn anew each time;
its median over 200, after the first 20, and of the first 20, whose pages are read from the disk's
cache. Needs 40 bytes a row in --work and 20 in the cache (DEAR_CACHE, set to --work here). Written
to benchmarks/results/label_rows.json.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dear.artifacts import read_json, write_json
from dear.bench.machine import describe
from dear.data.id_keys import id_keys
from dear.data.label_stores import look_into, merge
from dear.data.labels import Stamp, open_labels, open_store, write_shard
from dear.data.shards import Shard, Share
from dear.digests import Input, Inputs

OF_A_QUERY = 100
PASSAGES = 8_841_823
"""Of MS MARCO: names of passages are drawn below it."""
STAMP = Stamp(collection="made-up", teacher="made-up", revision="1", fingerprint="1")
INPUTS = Inputs({"run": Input("made-up")})
QUERIES, EACH = 64, 16


def passages(query: int) -> list[str]:
    """The same ones each time; drawn from the query's number alone."""
    drawn = np.random.default_rng(query).choice(PASSAGES, OF_A_QUERY, replace=False)
    return [str(one) for one in np.sort(drawn)]


def make(options: argparse.Namespace) -> dict[str, Any]:
    """The stores of all shards."""
    queries = options.rows // OF_A_QUERY
    ids = [str(one) for one in range(queries)]
    whole = Share.plan(Shard(0, 1), options.rows, INPUTS)
    leaves = whole.leaves_of(ids)
    order = np.argsort(leaves, kind="stable")
    edges = np.searchsorted(leaves[order], np.arange(whole.leaves + 1))
    keys = id_keys(ids)
    started = time.perf_counter()
    for number in range(options.shards):
        share = Share.plan(Shard(number, options.shards), options.rows, INPUTS)
        mine = [leaf for leaf in range(whole.leaves) if share.has_leaf(leaf)]
        pairs = OF_A_QUERY * sum(int(edges[leaf + 1] - edges[leaf]) for leaf in mine)
        share = Share(
            shards=share.shards, of=share.of, leaves=share.leaves, pairs=pairs, inputs=INPUTS
        )
        folder = options.work / "shards" / str(number)
        with open_store(folder, STAMP, share) as store:
            for leaf in mine:
                path = folder / f"shard-{leaf:06d}.parquet"
                if path.exists():
                    continue
                own = sorted(order[edges[leaf] : edges[leaf + 1]].tolist(), key=lambda q: keys[q])
                rows = [(ids[q], passage) for q in own for passage in passages(q)]
                drawn = np.random.default_rng(leaf)
                scores = drawn.normal(size=len(rows)).astype(np.float32)
                texts = drawn.integers(1, 1 << 63, len(rows), dtype=np.uint64)
                if rows:
                    write_shard(path, rows, scores, texts, STAMP)
            store.finish()
    return {"seconds": round(time.perf_counter() - started, 1)}


def folders(options: argparse.Namespace) -> list[Path]:
    return [options.work / "shards" / str(number) for number in range(options.shards)]


def verify(options: argparse.Namespace) -> dict[str, Any]:
    started = time.perf_counter()
    stores = [look_into(folder) for folder in folders(options)]
    assert not any(store.problems for store in stores)
    rows = sum(store.rows for store in stores)
    return {
        **rate(rows, started),
        "bytes_a_row": round(sum(store.bytes for store in stores) / rows, 1),
    }


def merging(options: argparse.Namespace) -> dict[str, Any]:
    """What `dear labels merge` does: every file is read and checked, then copied and checked."""
    output = options.work / "merged"
    shutil.rmtree(output, ignore_errors=True)
    started = time.perf_counter()
    share = merge([look_into(folder) for folder in folders(options)], output)
    return rate(share.pairs, started)


def index(options: argparse.Namespace) -> dict[str, Any]:
    """The first opening: the index is made."""
    started = time.perf_counter()
    labels = open_labels(options.work / "merged", small=0)
    size = sum(
        path.stat().st_size for path in (options.work / "labels").rglob("*") if path.is_file()
    )
    return {**rate(len(labels), started), "index_bytes_a_row": round(size / len(labels), 1)}


def reading(options: argparse.Namespace) -> dict[str, Any]:
    """A later opening, and the labels of batches."""
    started = time.perf_counter()
    labels: Any = open_labels(options.work / "merged", small=0)
    opened = time.perf_counter() - started
    drawn = np.random.default_rng(0)
    seconds = []
    for _ in range(220):
        queries = drawn.integers(0, options.rows // OF_A_QUERY, QUERIES).tolist()
        pairs = [(str(q), p) for q in queries for p in passages(q)[:EACH]]
        started = time.perf_counter()
        found = labels.of_batch(pairs)
        seconds.append(time.perf_counter() - started)
        assert not np.isnan(found).any()
    return {
        "open_s": round(opened, 3),
        "batch_ms": round(1000 * statistics.median(seconds[20:]), 2),
        "first_batches_ms": round(1000 * statistics.median(seconds[:20]), 2),
        "slowest_batch_ms": round(1000 * max(seconds), 2),
    }


def rate(rows: int, started: float) -> dict[str, Any]:
    seconds = time.perf_counter() - started
    return {"seconds": round(seconds, 1), "rows_per_s": round(rows / seconds)}


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "make": make,
    "verify": verify,
    "merge": merging,
    "index": index,
    "reading": reading,
}


def memory() -> Iterator[tuple[str, float]]:
    """MiB at most, and how much of what is held at the end is no mapped file."""
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in ("VmHWM", "RssAnon"):
            yield (
                {"VmHWM": "peak_mib", "RssAnon": "own_mib"}[name],
                round(int(value.split()[0]) / 1024),
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=100_000_000)
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/label_rows.json"))
    parser.add_argument("--part", help="one of them, here, as JSON")
    options = parser.parse_args()
    options.work = options.work.resolve()
    if options.part:
        found = PARTS[options.part](options)
        print(json.dumps(found | dict(memory())))
        return
    results = read_json(options.output) if options.output.is_file() else {}
    results |= {"machine": describe("cpu"), "rows": options.rows, "shards": options.shards}
    for part in options.only.split(","):
        words = [sys.executable, __file__, "--part", part, "--work", str(options.work)]
        words += ["--rows", str(options.rows), "--shards", str(options.shards)]
        environ = {**os.environ, "DEAR_CACHE": str(options.work)}
        done = subprocess.run(words, env=environ, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr[-2000:])
        results[part] = json.loads(done.stdout.splitlines()[-1])
        print(part, results[part], flush=True)
        write_json(options.output, results)


if __name__ == "__main__":
    main()
