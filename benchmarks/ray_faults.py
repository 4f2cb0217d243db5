"""Kill workers, drivers and machines of `dear label --on ray` at random; compare with one process.

    python benchmarks/ray_faults.py --data ../shared/data --kills 50

The job is noveleval's 420 pairs by a MiniLM as a bi-encoder, in 21 leaves or fewer, on a Ray of two
machines of one core each (ray.cluster_utils.Cluster). Each run is one kill: in a fresh folder, at a
random moment of the job, a worker's process, the driver or a machine with all that is on it is
ended with SIGKILL; a machine comes back a second later. Then the same command is started again
until it ends well. Every store must have the bytes of `--shard 0/1`; `dear labels verify` looks
at them, too. What was done is in the results file, and a stopped benchmark goes on from it.
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
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HANGS_S, MOST_STARTS = 600.0, 10
VICTIMS = ("worker", "driver", "machine")


def command(data: Path, output: Path, *more: str) -> list[str]:
    words = ("label", str(data / "noveleval"), "--run", "bm25", "--split", "test", "--dtype")
    last = ("float32", "--model", "biencoder:minilm-l6", "--output", str(output))
    return [sys.executable, "-m", "dear", "--quiet", *words, *last, *more]


def files(folder: Path) -> dict[str, Any]:
    """Bytes of each file of a store; of the manifest all but what jobs took."""
    found: dict[str, Any] = {p.name: p.read_bytes() for p in folder.glob("*.parquet")}
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest.pop("jobs", None)
    return found | {"manifest.json": manifest}


def workers() -> list[int]:
    """Processes of this user that hold a model."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if path.read_bytes().startswith(b"ray::Actor"):
                found.append(int(path.parent.name))
    return found


class Machines:
    """The head, on which nothing computes, and two that come and go."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 0, "include_dashboard": False}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.nodes = [self.cluster.add_node(num_cpus=1) for _ in range(2)]

    def kill(self, victim: str, driver: subprocess.Popen[bytes], draw: random.Random) -> bool:
        """Whether there was one."""
        if victim == "machine":
            lost = self.nodes.pop(draw.randrange(2))
            self.cluster.remove_node(lost, allow_graceful=False)
            time.sleep(1)
            self.nodes.append(self.cluster.add_node(num_cpus=1))
            return True
        there = [driver.pid] if victim == "driver" else workers()
        if not there:
            return False
        with suppress(ProcessLookupError):
            os.kill(draw.choice(there), signal.SIGKILL)
        return True


def one_run(
    machines: Machines, data: Path, folder: Path, victim: str, draw: random.Random, usual_s: float
) -> dict[str, Any]:
    """What became of a job with one kill in it."""
    started, starts, killed, hung = time.monotonic(), 0, False, False
    at = draw.uniform(0.2, 1.0) * usual_s
    while starts < MOST_STARTS:
        driver = subprocess.Popen(
            command(data, folder, "--on", "ray", "--ray-address", machines.cluster.address)
        )
        starts += 1
        if not killed:
            with suppress(subprocess.TimeoutExpired):
                driver.wait(at)
            killed = driver.poll() is None and machines.kill(victim, driver, draw)
        try:
            status = driver.wait(HANGS_S)
        except subprocess.TimeoutExpired:
            driver.kill()
            status, hung = driver.wait(), True
        if status == 0:
            break
    seconds = round(time.monotonic() - started, 1)
    return {"victim": victim, "at_s": round(at, 1), "killed": killed, "starts": starts,
            "ended_well": status == 0, "hung": hung, "seconds": seconds}  # fmt: skip


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "runs": len(runs),
        "killed": Counter(run["victim"] for run in runs if run["killed"]),
        "ended_well": sum(run["ended_well"] for run in runs),
        "same_bytes": sum(run["same_bytes"] for run in runs),
        "verified": sum(run["verified"] for run in runs),
        "hung": sum(run["hung"] for run in runs),
        "most_starts": max((run["starts"] for run in runs), default=0),
        "each": runs,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/ray_faults.json"))
    options = parser.parse_args()
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    runs = json.loads(options.output.read_text())["each"] if options.output.exists() else []
    with tempfile.TemporaryDirectory() as work:
        one = Path(work) / "one"
        subprocess.run(command(options.data, one, "--shard", "0/1"), check=True)
        expected, machines = files(one), Machines()
        far = ("--on", "ray", "--ray-address", machines.cluster.address)
        usual_s = 0.0
        for name in ("first", "usual"):  # the first start reads everything from the disk
            started = time.monotonic()
            subprocess.run(command(options.data, Path(work) / name, *far), check=True)
            usual_s = time.monotonic() - started
            assert files(Path(work) / name) == expected
        while len(runs) < options.kills:
            draw, folder = random.Random(len(runs)), Path(work) / f"run-{len(runs)}"
            victim = VICTIMS[len(runs) % len(VICTIMS)]
            run = one_run(machines, options.data, folder, victim, draw, usual_s)
            verify = [sys.executable, "-m", "dear", "labels", "verify", str(folder)]
            run["same_bytes"] = files(folder) == expected
            run["verified"] = subprocess.run(verify, stdout=subprocess.DEVNULL).returncode == 0
            runs.append(run)
            print(run, flush=True)
            options.output.write_text(json.dumps(summary(runs), indent=2) + "\n")
            shutil.rmtree(folder)
        machines.cluster.shutdown()


if __name__ == "__main__":
    main()
