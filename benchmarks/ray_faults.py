"""Faults of every kind while `dear label --on ray` is at work; compare with one process.

    sudo python benchmarks/ray_faults.py --data ../shared/data --runs 50

The job is noveleval's 420 pairs in 21 leaves or fewer, by two layers of a MiniLM with a random
head; the cluster is two nodes of Ray with one core each, in two network namespaces of this
machine (ray_machines.py), and the command is given on the first. Each run has a fresh folder and
one fault, in turn, in the middle of the scoring, at a random moment of a random leaf:

    worker     SIGKILL for the process of one of the two models
    driver     SIGKILL for the command
    machine    all that runs on the second node ends at once; it comes back a second later
    short cut  no packet passes between the two nodes for 5 s
    long cut   until Ray takes the second node for dead, and some seconds; it is started again
    full disk  the disk of the labels is full until the command has ended

Then the same command is given again until it ends well. Every store must have the bytes of
`--shard 0/1`, its manifest must say what the last job did, and `dear labels verify` must find each
pair once. A stopped benchmark goes on from its results file. Needs root, Linux, iproute2,
util-linux and the extras "ray" and "demo".
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from ray_machines import ADDRESSES, ENVIRONMENT, HEAD, Machines, children

FAULTS = ("worker", "driver", "machine", "short cut", "long cut", "full disk")
HANGS_S, MOST_STARTS, SHORT_S, LONG_S = 420.0, 10, 5.0, 3.0
DISK_BYTES = 8 << 20


@dataclass
class Job:
    """work: the folder of all that is made, below it the small disk that the labels are on.

    expected: the store of one process.  leaves: files of it.  leaf_s: of one, about.
    """

    data: Path
    work: Path
    expected: dict[str, Any]
    leaves: int = 0
    leaf_s: float = 0.0

    def command(self, output: Path, *more: str) -> list[str]:
        words = ("label", str(self.data / "noveleval"), "--run", "bm25", "--split", "test")
        last = ("--model", str(self.work / "model"), "--dtype", "float32", "--output", str(output))
        return [sys.executable, "-m", "dear", *words, *last, *more]

    def start(self, machines: Machines, output: Path) -> subprocess.Popen[str]:
        words = self.command(output, "--on", "ray", "--ray-address", HEAD)
        return machines.head.run(words, stdout=-1, stderr=-2, text=True)


def make_model(folder: Path) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from dear.checkpoints.registry import locate

    torch.manual_seed(0)
    base = locate("minilm-l6").path
    model = AutoModelForSequenceClassification.from_pretrained(
        base, num_hidden_layers=2, num_labels=1, trust_remote_code=False
    )
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base, trust_remote_code=False).save_pretrained(folder)


def files(folder: Path) -> dict[str, Any]:
    """Bytes of each file of a store; of the manifest all but what jobs took."""
    found: dict[str, Any] = {p.name: p.read_bytes() for p in folder.glob("*.parquet")}
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest.pop("jobs", None)
    return found | {"manifest.json": manifest}


def pairs_in(folder: Path) -> list[tuple[str, str]]:
    """Of every row."""
    found: list[tuple[str, str]] = []
    for path in sorted(folder.glob("*.parquet")):
        table = pq.read_table(path, columns=["query_id", "passage_id"]).to_pydict()
        found += zip(table["query_id"], table["passage_id"], strict=True)
    return found


def await_leaves(driver: subprocess.Popen[str], folder: Path, count: int) -> bool:
    """Whether scoring began and `count` leaves were written; False: the command ended before."""
    while driver.poll() is None:
        begun = (folder / "manifest.json").exists()
        if begun and len(list(folder.glob("*.parquet"))) >= count:
            return True
        time.sleep(0.005)
    return False


def inject(
    fault: str, machines: Machines, driver: subprocess.Popen[str], disk: Path, draw: random.Random
) -> dict[str, Any]:
    """What was done; `done` is whether there was something to do it to."""
    if fault == "worker":
        name = machines.kill_worker(draw)
        return {"done": bool(name), "on": name}
    if fault == "driver":
        for process in children(driver.pid):
            os.kill(process, signal.SIGKILL)
        return {"done": driver.wait() == -signal.SIGKILL}
    if fault == "machine":
        machines.far.kill()
        time.sleep(1)
        machines.far.start()
        return {"done": True}
    if fault == "full disk":
        with suppress(OSError), (disk / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(bytes(1 << 16))
        return {"done": shutil.disk_usage(disk).free == 0}
    machines.cut()
    started = time.monotonic()
    if fault == "short cut":
        time.sleep(SHORT_S)
    else:
        while ADDRESSES["far"] in machines.alive():
            time.sleep(0.2)
        time.sleep(LONG_S)
    machines.join("far")
    cut_s, dead = time.monotonic() - started, ADDRESSES["far"] not in machines.alive()
    return {"done": dead == (fault == "long cut"), "cut_s": round(cut_s, 1)}


def one_run(job: Job, machines: Machines, folder: Path, number: int) -> dict[str, Any]:
    """What became of a job with one fault in it."""
    fault, draw, disk = FAULTS[number % len(FAULTS)], random.Random(number), folder.parent
    leaves, within = draw.randrange(job.leaves * 2 // 3), draw.random()
    started, told, done = time.monotonic(), dict[str, Any](), list[dict[str, Any]]()
    rows = 0
    while len(done) < MOST_STARTS and not (done and done[-1]["status"] == 0):
        rows = len(pairs_in(folder))
        driver = job.start(machines, folder)
        if not told.get("done") and await_leaves(driver, folder, leaves):
            time.sleep(within * job.leaf_s)
            told = inject(fault, machines, driver, disk, draw)
        try:
            said, _ = driver.communicate(timeout=HANGS_S)
            hung = False
        except subprocess.TimeoutExpired:
            for process in children(driver.pid):
                os.kill(process, signal.SIGABRT)  # says where it is
            said, hung = driver.communicate()[0], True
        (disk / "filler").unlink(missing_ok=True)
        lines = said.replace(str(job.work), "WORK").splitlines()
        if hung:
            print(said, flush=True)
        told_of = [
            line for line in lines if line.startswith("dear: error: ") or "Traceback" in line
        ]
        replaced = sum("another worker takes its place" in line for line in lines)
        done.append({"status": driver.returncode, "hung": hung, "errors": told_of,
                     "replaced": replaced, "rows_before": rows})  # fmt: skip
    return {"fault": fault, "leaves_before": leaves, **told, "starts": done,
            "seconds": round(time.monotonic() - started, 1)}  # fmt: skip


def check(job: Job, folder: Path, run: dict[str, Any]) -> None:
    """Adds what is true of the store."""
    pairs, last = pairs_in(folder), run["starts"][-1]
    run["ended_well"] = last["status"] == 0
    run["hung"] = any(start["hung"] for start in run["starts"])
    run["rows"], run["pairs"] = len(pairs), len(set(pairs))
    run["same_bytes"] = files(folder) == job.expected
    jobs = json.loads((folder / "manifest.json").read_text()).get("jobs", [{}])
    scored = jobs[-1].get("cost", {}).get("pointwise", {}).get("pairs", 0)
    run["manifest_true"] = scored == len(pairs) - last["rows_before"]
    verify = [sys.executable, "-m", "dear", "labels", "verify", str(folder)]
    verify += ["--collection", str(job.data / "noveleval"), "--run", "bm25", "--split", "test"]
    run["verified"] = subprocess.run(verify, stdout=subprocess.DEVNULL).returncode == 0
    first = run["starts"][0]
    if run["fault"] == "full disk":
        run["one_error"] = first["status"] == 2 and len(first["errors"]) == 1


def undisturbed(job: Job, machines: Machines, folder: Path) -> dict[str, Any]:
    """A job without a fault; on which nodes workers were at work."""
    driver, on, began = job.start(machines, folder), set[str](), 0.0
    while driver.poll() is None:
        there = {m.name for m in (machines.head, machines.far) for t in m.workers().values()
                 if b"work" in t}  # fmt: skip
        on |= there
        if not began and (folder / "manifest.json").exists():
            began = time.monotonic()
        time.sleep(0.02)
    job.leaf_s = 2 * (time.monotonic() - began) / job.leaves
    print(driver.communicate()[0], flush=True)
    return {"same_bytes": files(folder) == job.expected, "leaves": job.leaves,
            "pairs": len(pairs_in(folder)), "workers_on": sorted(on)}  # fmt: skip


def summary(alone: dict[str, Any], runs: list[dict[str, Any]]) -> dict[str, Any]:
    counted = ("done", "ended_well", "same_bytes", "manifest_true", "verified", "hung", "one_error")
    tables = {}
    for fault in ("all", *FAULTS):
        of = [run for run in runs if fault in ("all", run["fault"])]
        tables[fault] = {
            "runs": len(of),
            **{what: sum(run.get(what, False) for run in of) for what in counted},
            "each_pair_once": sum(run["rows"] == run["pairs"] == alone["pairs"] for run in of),
            "starts": dict(sorted(Counter(str(len(run["starts"])) for run in of).items())),
        }
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "two nodes in two namespaces": alone,
        "faults": tables,
        "each": runs,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/ray_faults.json"))
    options = parser.parse_args()
    if os.geteuid():
        parser.error("network namespaces need root")
    os.environ |= ENVIRONMENT
    runs = json.loads(options.output.read_text())["each"] if options.output.exists() else []
    with tempfile.TemporaryDirectory(prefix="dear-ray-") as place:
        work = Path(place)
        disk, log = work / "disk", (work / "ray.log").open("wb")
        disk.mkdir()
        subprocess.run(f"mount -t tmpfs -o size={DISK_BYTES} tmpfs {disk}".split(), check=True)
        machines = None
        try:
            make_model(work / "model")
            job = Job(options.data.resolve(), work, {})
            subprocess.run(job.command(work / "one", "--shard", "0/1"), check=True)
            job.expected = files(work / "one")
            job.leaves = len(job.expected) - 1
            machines = Machines(log)
            alone = undisturbed(job, machines, disk / "undisturbed")
            assert alone["same_bytes"]
            shutil.rmtree(disk / "undisturbed")
            while len(runs) < options.runs:
                machines.await_both()
                folder = disk / f"run-{len(runs)}"
                run = one_run(job, machines, folder, len(runs))
                check(job, folder, run)
                runs.append(run)
                print(run, flush=True)
                options.output.write_text(json.dumps(summary(alone, runs), indent=2) + "\n")
                shutil.rmtree(folder)
        finally:
            if machines is not None:
                machines.close()
            subprocess.run(["umount", "--lazy", str(disk)], check=False)


if __name__ == "__main__":
    main()
