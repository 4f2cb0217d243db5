"""Every committed attack, the heavy ones too, as a table: what each took and what it may take.

    python benchmarks/attacks.py [--out benchmarks/results/attacks]

Runs tests/attacks (about as long as its ceilings allow, usually some minutes) and writes OUT.json
and OUT.md: an attack's kind is the file that it stands in, its figures are processor time and
highest resident memory of the attacked process, its ceilings ten times the usual value.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from dear.artifacts import write_json
from dear.bench.machine import describe

HERE = Path(__file__).resolve().parent


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE / "results" / "attacks")
    out: Path = parser.parse_args().out
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "attacks.jsonl"
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/attacks"],
            cwd=HERE.parent,
            env={**os.environ, "DEAR_ATTACKS_TABLE": str(table)},
            stdin=subprocess.DEVNULL,
            check=False,
        )
        rows = [json.loads(line) for line in table.read_text("utf-8").splitlines()]
    rows.sort(key=lambda row: row["test"])
    failed = done.returncode != 0
    write_json(
        out.with_suffix(".json"),
        {"machine": describe(), "all_withstood": not failed, "attacks": rows},
    )
    out.with_suffix(".md").write_text(markdown(rows), "utf-8")
    print(markdown(rows))
    return int(failed)


def markdown(rows: list[dict[str, Any]]) -> str:
    """One line a test: processes attacked, the most of each figure and its share of the ceiling."""
    tests: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        tests[row["test"].partition("[")[0]].append(row)
    lines = [
        "| kind | attack | processes | most seconds (ceiling) | most MiB (ceiling) |",
        "|---|---|---|---|---|",
    ]
    for test, of_test in tests.items():
        file, _, name = test.partition("::")
        longest = max(of_test, key=lambda row: row["seconds"] / row["ceilings"][0])
        largest = max(of_test, key=lambda row: row["mebibytes"] / row["ceilings"][1])
        lines.append(
            f"| {Path(file).stem.removeprefix('test_')} | {name.removeprefix('test_')} "
            f"| {len(of_test)} | {longest['seconds']} ({longest['ceilings'][0]:g}) "
            f"| {largest['mebibytes']} ({largest['ceilings'][1]:g}) |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    raise SystemExit(main())
