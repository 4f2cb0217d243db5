"""Published rows whose runs are at hand, computed again.

    python benchmarks/published.py --data FOLDER

FOLDER holds the collections and runs that src/dear/evaluate/published.toml names. Every row is
computed by written rank, as most tables were made, and in trec_eval's order, which breaks ties of
the score by passage id. Written to benchmarks/results/published.json and as a table to standard
output; the exit status is 1 where a row does not come out the same by written rank.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dear.artifacts import versions, write_json
from dear.data.collections import Collection
from dear.data.formats import read_run
from dear.data.formats.lines import numbered_lines
from dear.evaluate.metrics import evaluate
from dear.evaluate.published import PublishedRow, all_published
from dear.records import Ranking, Run

RESULTS = Path(__file__).parent / "results" / "published.json"


def by_written_rank(path: Path) -> dict[str, Ranking]:
    """A run as it stands in the file, whatever its scores are."""
    written: dict[str, list[tuple[int, str]]] = {}
    for _, line in numbered_lines(path):
        query_id, _, passage_id, rank, *_ = line.split()
        written.setdefault(query_id, []).append((int(rank), passage_id))
    return {
        query_id: Ranking.sorted(query_id, [p for _, p in places], [-rank for rank, _ in places])
        for query_id, places in written.items()
    }


def tied(run: Run) -> int:
    """Passages whose score another of the same query has."""
    return sum(
        len(scores) - sum(scores.count(score) == 1 for score in scores)
        for scores in (ranking.scores for ranking in run.values())
    )


def compute(row: PublishedRow, data: Path, collections: Mapping[str, Collection]) -> dict[str, Any]:
    assert row.run is not None
    path = data / row.run
    judgements = collections[row.collection].judgements("test")
    scored = read_run(path)
    means = {
        order: evaluate(run, judgements, [row.measure]).means[row.measure]
        for order, run in (("by_rank", by_written_rank(path)), ("by_score", scored))
    }
    return {
        "system": row.system,
        "collection": row.collection,
        "measure": row.measure,
        "published": row.value,
        **means,
        "same": round(means["by_rank"], 4) == row.value,
        "tied_scores": tied(scored),
        "run": row.run,
        "source": row.source,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of collections")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    rows = [row for row in all_published() if row.run]
    collections = {
        name: Collection.from_folder(options.data / name) for name in {r.collection for r in rows}
    }
    found = [compute(row, options.data, collections) for row in rows]
    write_json(options.output, {"rows": found, "versions": versions()})
    print(f"{'system':<32}{'collection':<12}published  by rank  by score  ties")
    for one in found:
        print(
            f"{one['system']:<32}{one['collection']:<12}{one['published']:9.4f}"
            f"{one['by_rank']:9.4f}{one['by_score']:10.4f}{one['tied_scores']:6}"
            f"{'' if one['same'] else '  differs'}"
        )
    return 0 if all(one["same"] for one in found) else 1


if __name__ == "__main__":
    sys.exit(main())
