"""`dear check`'s suite on a student, on lists, on a cascade; and lists with and without a guard.

    python benchmarks/robustness.py --student DIR --heads DIR [--systems a,b] [--output FILE]

--student: a pointwise checkpoint.  --heads: weights of attention heads that were fitted for the
model of --lists (docs/listwise.md). A system that is in the output already is measured again only
if it is named. Lists are one window of --window passages, --words words each.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from dear.artifacts import write_json
from dear.backends.local import Local
from dear.bench.machine import describe
from dear.data.collections import open_collection
from dear.data.formats import read_run
from dear.evaluate.robustness import CHECKS, RobustnessReport, check
from dear.listwise.loading import HeadWeights, load_list_model
from dear.listwise.reader import ListReader
from dear.listwise.strategies import Full
from dear.rank.cascade import Cascade
from dear.rank.listwise import ListwiseRanker
from dear.rank.reranker import Reranker
from dear.records import Candidates, Judgements, Ranking, every_nth, gather

Rank = Callable[[Sequence[Candidates]], Iterable[Ranking]]

OUTPUT = Path(__file__).parent / "results" / "robustness.json"


def candidates(
    options: argparse.Namespace, queries: int, depth: int
) -> tuple[list[Candidates], Judgements]:
    opened = open_collection(options.collection)
    judgements = opened.judgements("test")
    run = read_run(opened.runs("test")[options.run])
    asked = every_nth([q for q in run if q in judgements], queries)
    texts, corpus = opened.queries(), opened.corpus
    return [gather(run[q].top(depth), texts, corpus) for q in asked], judgements


def student(options: argparse.Namespace, guarded: bool) -> Rank:
    return Reranker(options.student).rank_candidates


def lists(options: argparse.Namespace, guarded: bool, reading: str, heads: bool) -> Rank:
    return lists_ranker(options, guarded, reading, heads).rank_candidates


def lists_ranker(
    options: argparse.Namespace, guarded: bool, reading: str, heads: bool
) -> ListwiseRanker:
    model = load_list_model(options.lists)
    if options.words:
        model = replace(model, contract=replace(model.contract, max_words=options.words))
    weights = HeadWeights.load(Path(options.heads)) if heads else None
    backend = Local(ListReader(model, reading=reading, heads=weights))  # type: ignore[arg-type]
    return ListwiseRanker(backend, strategy=Full(), guard=guarded)


def cascade(options: argparse.Namespace, guarded: bool) -> Rank:
    heads = lists_ranker(options, guarded, "attention", True)
    return Cascade(Reranker(options.student), heads).rank_candidates


SYSTEMS: dict[str, Callable[[argparse.Namespace, bool], Rank]] = {
    "student": student,
    "attention": lambda options, guarded: lists(options, guarded, "attention", True),
    "constrained": lambda options, guarded: lists(options, guarded, "constrained", False),
    "cascade": cascade,
}
GUARDED = ("attention", "constrained")
"""Of these the injections are tried once more, guarded."""


def measured(options: argparse.Namespace, name: str) -> dict[str, Any]:
    kind, _, mark = name.partition(", ")
    wide = kind == "student"
    chosen, judgements = (
        candidates(options, options.queries, options.depth)
        if wide
        else candidates(options, options.list_queries, options.window)
    )
    rank = SYSTEMS[kind](options, bool(mark))
    started = time.perf_counter()
    report: RobustnessReport = check(
        chosen,
        judgements,
        rank,
        pointwise=wide,
        only=("injection",) if mark or kind == "constrained" else tuple(CHECKS),
        min_grade=options.min_grade,
        before_check=lambda check: print(f"{name}: {check}", flush=True),
    )
    return report.to_dict() | {"seconds": round(time.perf_counter() - started, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--student", required=True)
    parser.add_argument("--heads", required=True)
    parser.add_argument("--lists", default="smollm2-135m")
    parser.add_argument("--collection", default="dl19")
    parser.add_argument("--run", default="bm25")
    parser.add_argument("--min-grade", type=int, default=2)
    parser.add_argument("--queries", type=int, default=20)
    parser.add_argument("--depth", type=int, default=20)
    parser.add_argument("--list-queries", type=int, default=10)
    parser.add_argument("--window", type=int, default=8)
    parser.add_argument("--words", type=int, default=40)
    parser.add_argument("--systems", help="with commas; all that the output lacks if left out")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = parser.parse_args()
    names = [
        name
        for system in SYSTEMS
        for name in ((system, f"{system}, guarded") if system in GUARDED else (system,))
    ]
    kept: dict[str, Any] = {}
    if options.output.exists():
        kept = json.loads(options.output.read_text(encoding="utf-8"))["systems"]
    wanted = [n for n in names if n not in kept]
    if options.systems:
        wanted = [n for n in names if n.partition(",")[0] in options.systems.split(",")]
    for name in wanted:
        kept[name] = measured(options, name)
        values = {
            "machine": describe(),
            "options": {
                k: Path(v).name if k in ("student", "heads", "output") else v
                for k, v in vars(options).items()
                if k != "systems"
            },
            "systems": {n: kept[n] for n in names if n in kept},
        }
        write_json(options.output, values)
    for name, report in kept.items():
        print(f"{name}: {report['checks']}, {report['seconds']} s")


if __name__ == "__main__":
    main()
