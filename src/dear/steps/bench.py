"""Scoring speed of this machine: our engines, exports and installed peers, on the same pairs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dear.artifacts import atomic_path, check_output
from dear.bench.run import BenchReport
from dear.bench.run import bench as measure
from dear.checkpoints.registry import check_model
from dear.data.collections import Collection, open_collection
from dear.data.formats import read_run
from dear.errors import ConfigError
from dear.notices import say
from dear.records import Candidates, Judgements, Run, every_nth, gather
from dear.report.charts import Point, scatter
from dear.steps.inputs import find_run
from dear.steps.options import BenchOptions
from dear.steps.progress import Watch, unwatched
from dear.steps.retrieve import search_bm25


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchedCollection:
    """What was measured on the pairs of a collection, by its name."""

    report: BenchReport
    collection: str


def bench(options: BenchOptions, *, watch: Watch = unwatched) -> BenchedCollection:
    """Measure every system in turns, and draw the plot where one is asked for."""
    for model in options.models:
        check_model(model)
    if options.plot is not None:
        check_output(options.plot)
    collection = open_collection(options.collection)
    candidates, judgements = _candidates(collection, options)
    with watch("measuring", "turns") as report:
        found = measure(
            options.models,
            candidates,
            judgements,
            device=options.device,
            rounds=options.rounds,
            peers=options.peers,
            tune=options.tune,
            batch_tokens=options.batch_tokens,
            contract=options.contract,
            instruction=options.instruction,
            revision=options.revision,
            progress=report,
        )
    if options.plot is not None:
        with atomic_path(options.plot) as file:
            file.write_text(_plot(found, collection.name), encoding="utf-8")
    return BenchedCollection(report=found, collection=collection.name)


def _candidates(
    collection: Collection, options: BenchOptions
) -> tuple[list[Candidates], Judgements | None]:
    run, split = options.run, options.split
    judgements = collection.judgements(split) if collection.has_judgements(split) else None
    if run in collection.runs(split) or Path(run).exists():
        found: Run = read_run(find_run(collection, run, split), ties="written")
    elif run == "bm25":
        say(f"searching {collection.name} with BM25")
        found = search_bm25(collection, split, top_k=options.top_k)
    else:
        raise ConfigError(f"{collection.name}: no run {run!r} for split {split!r}")
    asked = [q for q in found if judgements is None or q in judgements] or list(found)
    texts, corpus = collection.queries(), collection.corpus
    picked = every_nth(asked, options.queries)
    return [gather(found[q].top(options.top_k), texts, corpus) for q in picked], judgements


def _plot(found: BenchReport, collection: str) -> str:
    return scatter(
        "Scoring speed and quality",
        f"{found.pairs:,} pairs of {collection}, {found.machine['processor']}, "
        f"{found.machine['threads']} threads",
        [
            Point(row.name, row.pairs_per_s, row.ndcg or 0.0, strong=row.name.startswith("dear"))
            for row in found.rows
        ],
        x="pairs a second",
        y="nDCG@10",
    )
