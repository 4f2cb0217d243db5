"""The demo, timed: `dear distill pydocs` by one recipe, in a process of its own.

    python benchmarks/demo.py --recipe quick --avx2 --threads 2
    python benchmarks/demo.py --recipe quick --threads 2
    python benchmarks/demo.py --recipe laptop --threads 2 --picture docs/img/pydocs.svg
    python benchmarks/demo.py --recipe laptop --show

Each adds an entry to benchmarks/results/demo.json: the results, what processor made them, and
what it took: wall and processor seconds (user and system, of all threads) to the first table and
to the end, and the peak memory. On a machine that does other work at the same time, processor
seconds divided by threads are the better estimate of what a quiet one needs; the load is kept
beside them. A killed run goes on when it is started again; the times of its parts are added up.
A finished one is read, not run again.

--avx2 has PyTorch and oneDNN leave out all that is newer than AVX2, bfloat16 included, as on
processors that have no more. --show prints an entry's tables as `dear distill` does, for README.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from dear.artifacts import read_json, write_json

AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
TIMES = "times.json"
"""In the folder of a run: what each of its parts took."""
FIRST_TABLE = "what needs no training"
"""In the headline of the first table."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--recipe", default="quick")
    parser.add_argument("--avx2", action="store_true")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--folder", type=Path, help="default: runs/demo-NAME")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/demo.json"))
    parser.add_argument("--picture", type=Path, help="where a copy of the plot goes")
    parser.add_argument("--show", action="store_true")
    parser.add_argument("--describe", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    name = options.recipe + ("-avx2" if options.avx2 else "")
    if options.describe:
        print(json.dumps(describe()))
    elif options.show:
        show(read_json(options.output)[name])
    else:
        folder = options.folder or Path("runs") / f"demo-{name}"
        environment = os.environ | {"OMP_NUM_THREADS": str(options.threads)}
        environment |= AVX2 if options.avx2 else {}
        run(options.recipe, folder, environment)
        entry = collect(folder, options.threads, environment)
        known = read_json(options.output) if options.output.is_file() else {}
        write_json(options.output, known | {name: entry})
        if options.picture:
            shutil.copyfile(folder / "results.svg", options.picture)
        show(entry)


def run(recipe: str, folder: Path, environment: dict[str, str]) -> None:
    """`dear distill` to its end; what this part of it took is added to the folder's TIMES."""
    path = folder / TIMES
    parts: list[dict[str, Any]] = read_json(path)["parts"] if path.is_file() else []
    if (folder / "results.json").is_file():
        return
    started, before = time.perf_counter(), processor_seconds(resource.RUSAGE_CHILDREN)
    part: dict[str, Any] = {"load_before": os.getloadavg()[1]}
    command = [sys.executable, "-m", "dear", "distill", "pydocs", "--recipe", recipe]
    child = subprocess.Popen(
        [*command, "--output", str(folder)], env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout is not None
        for line in child.stdout:
            print(line, end="", flush=True)
            if FIRST_TABLE in line:
                part["first_table_s"] = round(time.perf_counter() - started, 1)
                part["first_table_processor_s"] = so_far(child.pid)
        status = child.wait()
    finally:
        child.kill()
        child.wait()
        part["wall_s"] = round(time.perf_counter() - started, 1)
        spent = processor_seconds(resource.RUSAGE_CHILDREN) - before
        part["processor_s"] = round(spent, 1)
        used = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        part["peak_memory_gib"] = round(used / 2**20, 2)
        part["load_after"] = os.getloadavg()[1]
        write_json(path, {"parts": [*parts, part]})
    if status:
        sys.exit(status)


def processor_seconds(who: int) -> float:
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


def so_far(pid: int) -> float | None:
    """User and system seconds of a process that runs; None where there is no /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return round((int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), 1)


def collect(folder: Path, threads: int, environment: dict[str, str]) -> dict[str, Any]:
    """The results, what they took, and what they were made on."""
    found: dict[str, Any] = read_json(folder / "results.json")
    found.pop("folder")
    parts = read_json(folder / TIMES)["parts"]
    processor = sum(part["processor_s"] for part in parts)
    found["took"] = {
        "threads": threads,
        "wall_s": round(sum(part["wall_s"] for part in parts), 1),
        "processor_s": round(processor, 1),
        "processor_s_per_thread": round(processor / threads, 1),
        "first_table_s": until_first_table(parts, "wall_s", "first_table_s"),
        "first_table_processor_s": until_first_table(
            parts, "processor_s", "first_table_processor_s"
        ),
        "peak_memory_gib": max(part["peak_memory_gib"] for part in parts),
        "parts": parts,
    }
    described = subprocess.run(
        [sys.executable, __file__, "--describe"],
        env=environment,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    found["machine"] = json.loads(described.stdout)
    return found


def until_first_table(parts: list[dict[str, Any]], whole: str, some: str) -> float | None:
    """Seconds of all parts that ended before the first table, and of the one that showed it."""
    spent = 0.0
    for part in parts:
        if some in part:
            return None if part[some] is None else round(spent + part[some], 1)
        spent += part[whole]
    return None


def describe() -> dict[str, Any]:
    """The processor as PyTorch sees it, and the recipe that `--recipe auto` takes here."""
    import torch

    from dear.bench.machine import with_rates
    from dear.checkpoints.hardware import cpu_has_bfloat16, cpu_has_tiles, usable_cores
    from dear.recipes import fitting_recipe

    cores, bfloat16, gpu = usable_cores(), cpu_has_bfloat16(), torch.cuda.is_available()
    return with_rates() | {
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "bfloat16": bfloat16,
        "tiles": cpu_has_tiles(),
        "limited_to": {key: os.environ[key] for key in AVX2 if key in os.environ},
        "auto": fitting_recipe(cores, bfloat16=bfloat16, gpu=gpu),
    }


def show(entry: dict[str, Any]) -> None:
    from dear.cli.distill import labels_worth, show_rows
    from dear.steps.distilled import LabelsWorth, SystemRow

    for rows in (entry["untrained"]["rows"], entry["rows"]):
        print()
        show_rows([SystemRow(**row) for row in rows], judged=True)
    if entry["labels_worth"] is not None:
        print()
        print(labels_worth(LabelsWorth(**entry["labels_worth"]), entry["queries"]))
    print(json.dumps(entry["took"] | {"parts": len(entry["took"]["parts"])}, indent=2))


if __name__ == "__main__":
    main()
