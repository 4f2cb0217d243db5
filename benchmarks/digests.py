"""What digests cost: labelling with and without them, bytes a label, look-ups.

    python benchmarks/digests.py --before SRC --work FOLDER [--rows 1000000 --rows 10000000]

labelling: the same pairs of pydocs, labelled into a new folder by this source tree and by an
earlier one in turns (SRC, a folder that holds `dear`; `git archive 3380414 src` gives one), each in
a process of its own, in processor time of `dear.label.label_with` alone. The teacher is the
cheapest there is for a pair, a bi-encoder that embeds each text once: with any other, digests are a
smaller part. `beside_model` is what `label_with` takes but for the model: its difference is what
digests add, without the noise of the model's own time.
look_up: a known digest of a corpus of 100,000 passages in one file, and the first one.
stores: labels with MS MARCO's numbers for ids, 200 passages a query: bytes a row on disk and in the
index, opening, membership of 100,000 pairs, and the labels of 64 queries x 16 passages.
reading: SHA-256 of a 1 GiB file, and finding it again.
The table goes to benchmarks/results/digests.json. Times are of the processor where they say cpu.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

RESULTS = Path(__file__).parent / "results" / "digests.json"
TEACHER = "biencoder:minilm-l6"
PER_QUERY = 200
ROUNDS = 5

LABEL = """
import sys, time, json
from pathlib import Path
from dear.data.collections import open_collection
from dear.data.formats import read_run
from dear.label import label_with
from dear.scoring.opening import open_model
run = read_run(Path(sys.argv[1]))
collection = open_collection("pydocs")
collection.corpus, collection.queries()
teacher = open_model(sys.argv[3], dtype="float32", device="cpu")
teacher.score([("a", "b")])
model = 0.0
def timed(work):
    def run(*words, **named):
        global model
        started = time.process_time()
        try:
            return work(*words, **named)
        finally:
            model += time.process_time() - started
    return run
teacher.prepare, teacher.score = timed(teacher.prepare), timed(teacher.score)
started = time.process_time()
done = label_with(collection, [run], teacher, Path(sys.argv[2]))
seconds = time.process_time() - started
print(json.dumps({"seconds": seconds, "beside_model": seconds - model, "pairs": done.scored}))
"""

READ = """
import sys, time, json
import numpy as np
from pathlib import Path
from dear.data.labels import open_labels, open_store, read_stamp
sys.path.insert(0, sys.argv[3])
from digests import PER_QUERY, pair
folder, rows = Path(sys.argv[1]), int(sys.argv[2])
def peak():
    # of this program alone: what getrusage says includes the one that started it
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024
before = peak()
wall, started = time.perf_counter(), time.process_time()
labels = open_labels(folder, small=0)
found = {"open_s": time.perf_counter() - wall, "open_cpu_s": time.process_time() - started}
dice = np.random.default_rng(1)
times, wall_times = [], []
for _ in range(300):
    queries = dice.integers(0, rows // PER_QUERY, 64)
    batch = [pair(q * PER_QUERY + p) for q in queries for p in dice.integers(0, PER_QUERY, 16)]
    wall, started = time.perf_counter(), time.process_time()
    scores = labels.of_batch(batch)
    times.append(time.process_time() - started)
    wall_times.append(time.perf_counter() - wall)
    assert np.isfinite(scores).all()
found["batch_ms_median"] = 1000 * float(np.median(wall_times))
found["batch_cpu_ms_median"] = 1000 * float(np.median(times))
found["memory_mib"] = peak() - before
asked = [pair(int(i)) for i in dice.integers(0, rows, 100_000)]
with open_store(folder, read_stamp(folder)) as store:
    assert len(store) == rows
    started = time.process_time()
    there, _, _ = store.find(asked)
    found["membership_of_100000_cpu_s"] = time.process_time() - started
    assert there.all()
    assert not store.find([(q + "x", p) for q, p in asked])[0].any()
print(json.dumps(found))
"""


def pair(number: int) -> tuple[str, str]:
    """Ids like those of MS MARCO: 1.2 million queries, 8.8 million passages."""
    query, place = divmod(number, PER_QUERY)
    return str(query * 7919 % 1_200_007), str((query * 31 + place * 104_729) % 8_841_823)


def child(code: str, *words: object, source: Path | None = None) -> dict[str, Any]:
    path = str(source or Path(__file__).resolve().parents[1] / "src")
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def labelling(work: Path, before: Path, queries: int, top_k: int) -> dict[str, Any]:
    from dear.data.collections import open_collection
    from dear.data.formats import write_run
    from dear.retrieve.bm25 import options_for, retrieve

    run = work / f"pydocs.{queries}.{top_k}.trec"
    if not run.is_file():
        opened = open_collection("pydocs")
        asked = dict(list(opened.queries("train").items())[:queries])
        found = retrieve(opened.corpus, asked, top_k=top_k, options=options_for("pydocs"))
        write_run(run, found, "bm25")
    seconds: dict[str, list[float]] = {"before": [], "after": []}
    beside: dict[str, list[float]] = {"before": [], "after": []}
    sizes: dict[str, float] = {}
    pairs = 0
    for turn in range(ROUNDS):
        ways = [("before", before), ("after", None)]
        for name, source in ways if turn % 2 else ways[::-1]:
            folder = work / "labels"
            shutil.rmtree(folder, ignore_errors=True)
            done = child(LABEL, run, folder, TEACHER, source=source)
            seconds[name].append(done["seconds"])
            beside[name].append(done["beside_model"])
            pairs = done["pairs"]
            sizes[name] = sum(p.stat().st_size for p in folder.glob("*.parquet")) / pairs
        print(f"labelling, turn {turn}: {seconds}", flush=True)
    ratios = [a / b for a, b in zip(seconds["after"], seconds["before"], strict=True)]
    return {
        "teacher": TEACHER,
        "pairs": pairs,
        "seconds_before": seconds["before"],
        "seconds_after": seconds["after"],
        "ratio_median": statistics.median(ratios),
        "beside_the_model_before": beside["before"],
        "beside_the_model_after": beside["after"],
        "added_share": (statistics.median(beside["after"]) - statistics.median(beside["before"]))
        / statistics.median(seconds["before"]),
        "ratio_of_fastest": min(seconds["after"]) / min(seconds["before"]),
        "bytes_a_row_before": sizes["before"],
        "bytes_a_row_after": sizes["after"],
    }


def measured(work: Callable[[], Any]) -> dict[str, float]:
    """Wall and processor time in ms."""
    wall, started = time.perf_counter(), time.process_time()
    work()
    took = time.process_time() - started
    return {"ms": 1000 * (time.perf_counter() - wall), "cpu_ms": 1000 * took}


def median(several: list[dict[str, float]]) -> dict[str, float]:
    return {key: statistics.median(one[key] for one in several) for key in several[0]}


def look_up(work: Path, passages: int) -> dict[str, Any]:
    from dear.data.collections import Collection
    from dear.data.inputs import corpus_input

    folder = work / f"corpus-{passages}"
    if not folder.is_dir():
        dice = random.Random(0)
        words = [f"word{i}" for i in range(5000)]
        folder.mkdir(parents=True)
        with (folder / "corpus.jsonl").open("w") as file:
            for i in range(passages):
                text = " ".join(dice.choices(words, k=80))
                file.write(json.dumps({"_id": f"d{i}", "title": "", "text": text}) + "\n")
        time.sleep(3)  # until it is old enough to be remembered
    shutil.rmtree(os.environ["DEAR_CACHE"], ignore_errors=True)

    def ask() -> None:
        corpus_input(Collection.from_folder(folder))

    first = measured(ask)
    known = [measured(ask) for _ in range(50)]
    held = Collection.from_folder(folder)
    _ = held.corpus
    shutil.rmtree(os.environ["DEAR_CACHE"])
    return {
        "passages": passages,
        "mib": (folder / "corpus.jsonl").stat().st_size / (1 << 20),
        "known": median(known),
        "slowest_known_ms": max(one["ms"] for one in known),
        "first": first,
        "first_where_the_corpus_is_in_memory": measured(lambda: corpus_input(held)),
    }


def stores(work: Path, rows: int) -> dict[str, Any]:
    import numpy as np

    from dear.data.labels import Stamp, open_store

    folder = work / f"store-{rows}"
    stamp = Stamp(collection="synthetic", teacher="t", revision="r", fingerprint="f")
    shard = 65_536
    started = time.process_time()
    if not folder.is_dir():
        dice = np.random.default_rng(0)
        with open_store(folder, stamp) as store:
            for first in range(0, rows, shard):
                pairs = [pair(i) for i in range(first, min(rows, first + shard))]
                scores = dice.normal(size=len(pairs)).astype(np.float32)
                store.append(pairs, scores, dice.integers(1, 2**63, len(pairs), dtype=np.uint64))
    writing = time.process_time() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    child(READ, folder, rows, Path(__file__).parent)  # whatever has to be made first
    found = child(READ, folder, rows, Path(__file__).parent)
    index = Path(os.environ["DEAR_CACHE"]) / "labels"
    about = next(p for p in index.glob("*/about.json") if json.loads(p.read_text())["rows"] == rows)
    on_disk = sum(p.stat().st_size for p in about.parent.iterdir() if p != about)
    return {
        "rows": rows,
        "bytes_a_row": sum(p.stat().st_size for p in folder.glob("*.parquet")) / rows,
        "index_bytes_a_row": on_disk / rows,
        "writing_cpu_us_a_row": 1e6 * writing / rows,
        "peak_mib_while_writing": peak,
        **found,
    }


def reading(work: Path) -> dict[str, Any]:
    from dear.digests import file_digest

    path = work / "gibibyte"
    if not path.is_file():
        with path.open("wb") as file:
            for _ in range(64):
                file.write(os.urandom(1 << 24))
        time.sleep(3)
    shutil.rmtree(Path(os.environ["DEAR_CACHE"]) / "digests", ignore_errors=True)
    first = measured(lambda: file_digest(path))
    known = median([measured(lambda: file_digest(path)) for _ in range(50)])
    return {"mb_a_cpu_second": (1 << 30) / 1000 / first["cpu_ms"], "first": first, "known": known}


def results(options: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    yield "look_up", look_up(options.work, 100_000)
    yield "reading", reading(options.work)
    yield "stores", [stores(options.work, rows) for rows in options.rows]
    if options.before is not None:
        yield "labelling", labelling(options.work, options.before, options.queries, options.top_k)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--rows", type=int, action="append", default=None)
    parser.add_argument("--queries", type=int, default=40)
    parser.add_argument("--top-k", type=int, default=50)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    options.rows = options.rows or [1_000_000, 10_000_000]
    options.work.mkdir(parents=True, exist_ok=True)
    os.environ["DEAR_CACHE"] = str(options.work / "cache")
    from dear.artifacts import write_json
    from dear.bench.machine import describe

    found: dict[str, Any] = {"machine": describe("cpu")}
    for name, value in results(options):
        found[name] = value
        print(json.dumps({name: value}, indent=2), flush=True)
        write_json(options.out, found)


if __name__ == "__main__":
    main()
