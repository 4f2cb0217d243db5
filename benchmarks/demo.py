"""The demo, timed: `dear distill pydocs` in a process of its own, with its peak memory.

    python benchmarks/demo.py [--folder runs/pydocs] [--output benchmarks/results/demo.json]

A folder that holds a finished distillation is read, not run again: the seconds of its stages are
in its notes; wall time and memory are then unknown.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from dear.artifacts import read_json, write_json
from dear.bench.machine import with_rates


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("runs/pydocs"))
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/demo.json"))
    options = parser.parse_args()
    measured: dict[str, Any] = {}
    results = options.folder / "results.json"
    if not results.is_file():
        started = time.perf_counter()
        command = [sys.executable, "-m", "dear.cli", "distill", "pydocs"]
        subprocess.run([*command, "--output", str(options.folder)], check=True)
        measured = {
            "wall_s": round(time.perf_counter() - started, 1),
            "peak_memory_gib": round(
                resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20, 2
            ),
        }
    found = read_json(results)
    found["stages_s"] = round(sum(found["stage_seconds"].values()), 1)
    found["machine"] = with_rates()
    found.pop("folder")
    write_json(options.output, found | measured)
    for row in found["rows"]:
        print(f"{row['system']:22} {row['score']:.4f}")
    print(f"stages: {found['stages_s']} s", measured or "(read, not run)")


if __name__ == "__main__":
    main()
