"""Feed every parser of outside text what hypothesis thinks of, for a budget of processor time.

    python benchmarks/fuzz.py --seconds 1200 [--seed 0] [--only corpus,run] [--out FILE]

A parser may read or refuse (a DearError of one line), and takes no longer than its linear bound;
everything else is a finding. tests/attacks/parsers.py lists the parsers and what they are fed. The
budget is divided evenly; each parser is fed in rounds with seeds of their own, so that the same
seed, budget and machine try about the same inputs. Writes OUT.json and OUT.md: how many inputs each
parser was tried with, and the smallest input of each finding. A finding that was mended goes into
FOUND in tests/attacks/test_fuzz.py, where it is tried for ever.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from tests.attacks.parsers import PARSERS, strategy_of, withstands  # noqa: E402

from dear.artifacts import write_json  # noqa: E402
from dear.bench.machine import describe  # noqa: E402

ROUND = 500
"""Inputs of a parser between two looks at the clock."""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=1200.0, help="of processor time, in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="names of parsers, with commas")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "fuzz.json")
    asked = parser.parse_args()
    names = [name for name in asked.only.split(",") if name] or list(PARSERS)
    rows = []
    for name in names:
        rows.append(fuzz(name, asked.seconds / len(names), asked.seed))
        print(line(rows[-1]), flush=True)
    findings = sum(row["finding"] is not None for row in rows)
    write_json(
        asked.out,
        {
            "machine": describe(),
            "seed": asked.seed,
            "budget_s": asked.seconds,
            "inputs": sum(row["inputs"] for row in rows),
            "findings": findings,
            "parsers": rows,
        },
    )
    asked.out.with_suffix(".md").write_text(markdown(rows), "utf-8")
    return int(findings > 0)


def fuzz(name: str, seconds: float, seed: int) -> dict[str, Any]:
    """One parser for so long, or until it is found out."""
    started = time.process_time()
    found: dict[str, Any] = {"parser": name, "inputs": 0, "finding": None}
    last: list[Any] = [None]

    def one(given_to_it: Any) -> None:
        found["inputs"] += 1
        last[0] = given_to_it
        withstands(PARSERS[name], given_to_it)

    number = 0
    while time.process_time() - started < seconds:
        feed = given(strategy_of(name))(one)
        feed = settings(
            max_examples=ROUND,
            database=None,
            deadline=None,
            phases=[Phase.generate, Phase.target, Phase.shrink],
            suppress_health_check=list(HealthCheck),
            print_blob=False,
        )(feed)
        try:
            seeded(seed * 1_000_003 + number)(feed)()
        except Exception as error:
            # hypothesis raises with the smallest input tried last
            reason = f"{type(error).__name__}: {error}"[:500]
            found["finding"] = {"error": reason, "input": ascii(last[0])[:2000]}
            break
        number += 1
    found["seconds"] = round(time.process_time() - started, 1)
    return found


def line(row: dict[str, Any]) -> str:
    """One parser, for a person who waits."""
    said = "withstood" if row["finding"] is None else f"FOUND {row['finding']['error'][:200]}"
    return f"{row['parser']}: {row['inputs']:,} inputs in {row['seconds']} s, {said}"


def markdown(rows: list[dict[str, Any]]) -> str:
    """A table, one line a parser."""
    lines = ["| parser | inputs | seconds | finding |", "|---|---:|---:|---|"]
    for row in rows:
        said = "none" if row["finding"] is None else row["finding"]["error"].replace("|", "\\|")
        lines.append(f"| {row['parser']} | {row['inputs']:,} | {row['seconds']} | {said} |")
    total = sum(row["inputs"] for row in rows)
    seconds = sum(row["seconds"] for row in rows)
    lines.append(f"| all | {total:,} | {seconds:.0f} | |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
