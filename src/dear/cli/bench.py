"""`dear bench`: how fast this machine scores, beside everything else that is installed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dear.artifacts import atomic_path, check_output
from dear.checkpoints.registry import check_model
from dear.cli.models import (
    BatchOption,
    ContractOption,
    DeviceOption,
    InstructionOption,
    RevisionOption,
    opening_options,
)
from dear.cli.output import note, print_json, summary, table
from dear.cli.progress import progress
from dear.data.collections import open_collection
from dear.data.formats import read_run
from dear.errors import ConfigError
from dear.records import every_nth, gather
from dear.retrieve.bm25 import retrieve
from dear.steps.inputs import find_run
from dear.steps.retrieve import bm25_options

if TYPE_CHECKING:
    from dear.bench.run import BenchReport
    from dear.data.collections import Collection
    from dear.records import Candidates, Judgements, Run


def bench(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help="A checkpoint, and exports or other models to put beside it.",
        ),
    ],
    collection: Annotated[
        str, typer.Option(metavar="COLLECTION", help="Whose pairs are scored.")
    ] = "pydocs",
    run: Annotated[
        str,
        typer.Option(metavar="RUN", help="A run's file or name; pydocs is searched with BM25."),
    ] = "bm25",
    split: Annotated[str, typer.Option(metavar="SPLIT", help="Of the queries.")] = "test",
    queries: Annotated[int, typer.Option(min=1, metavar="N", help="Queries to score.")] = 10,
    top_k: Annotated[int, typer.Option(min=1, metavar="N", help="Candidates of each.")] = 100,
    rounds: Annotated[
        int, typer.Option(min=1, metavar="N", help="Turns of each system; the median counts.")
    ] = 3,
    peers: Annotated[
        bool, typer.Option("--peers/--no-peers", help="Measure what else is installed, too.")
    ] = True,
    tune: Annotated[
        bool, typer.Option("--tune", help="Find the fastest token budget first; remember it.")
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="An SVG: pairs a second against nDCG@10."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of a table.")] = False,
    contract: ContractOption = None,
    instruction: InstructionOption = None,
    revision: RevisionOption = None,
    device: DeviceOption = "auto",
    batch_tokens: BatchOption = None,
) -> None:
    """Measure scoring in turns: our engines, exports and installed peers, on the same pairs."""
    from dear.bench.run import bench as measure

    for model in models:
        check_model(model)
    opening_options("auto", device, batch_tokens, contract)  # a contract that is none, now
    if plot is not None:
        check_output(plot)
    opened = open_collection(collection)
    candidates, judgements = _candidates(opened, run, split, queries, top_k)
    with progress("measuring", "turns") as report:
        found = measure(
            models,
            candidates,
            judgements,
            device=device,
            rounds=rounds,
            peers=peers,
            tune=tune,
            batch_tokens=batch_tokens,
            contract=contract,
            instruction=instruction,
            revision=revision,
            progress=report,
        )
    if plot is not None:
        with atomic_path(plot) as file:
            file.write_text(_plot(found, opened.name), encoding="utf-8")
    if as_json:
        print_json(found.to_dict())
    else:
        _show(found, opened.name)
    if plot is not None:
        summary(f"{plot}: drawn", plot)


def _candidates(
    collection: Collection, run: str, split: str, queries: int, top_k: int
) -> tuple[list[Candidates], Judgements | None]:

    judgements = collection.judgements(split) if collection.has_judgements(split) else None
    if run in collection.runs(split) or Path(run).exists():
        found: Run = read_run(find_run(collection, run, split), ties="written")
    elif run == "bm25":
        found = _search(collection, split, top_k)
    else:
        raise ConfigError(f"{collection.name}: no run {run!r} for split {split!r}")
    asked = [q for q in found if judgements is None or q in judgements] or list(found)
    texts, corpus = collection.queries(), collection.corpus
    picked = every_nth(asked, queries)
    return [gather(found[q].top(top_k), texts, corpus) for q in picked], judgements


def _search(collection: Collection, split: str, top_k: int) -> Run:

    note(f"searching {collection.name} with BM25")
    return retrieve(
        collection.corpus,
        collection.queries(split),
        top_k=top_k,
        options=bm25_options(collection.name),
    )


def _show(found: BenchReport, collection: str) -> None:
    machine = found.machine
    rates = ", ".join(f"{rate:,.0f} GFLOP/s {dtype}" for dtype, rate in found.gflop_s.items())
    summary(
        f"{machine['processor']}, {machine['threads']} threads, {machine['device']}: {rates}\n"
        f"{found.pairs:,} pairs of {collection}, {found.queries} queries; "
        f"{found.mean_tokens:.0f} tokens on average, {found.longest_tokens} at most; "
        f"{found.gflop_per_pair:.2f} GFLOP a pair"
    )
    slowest = min((row.pairs_per_s for row in found.rows), default=1.0)
    table(
        ("system", "pairs/s", "times", "of the matrix rate", "nDCG@10", "ready after"),
        [
            (
                row.name,
                f"{row.pairs_per_s:,.1f}",
                f"{row.pairs_per_s / slowest:.1f} x",
                f"{row.share:.0%}",
                "" if row.ndcg is None else f"{row.ndcg:.4f}",
                f"{row.load_s:.1f} s",
            )
            for row in sorted(found.rows, key=lambda row: -row.pairs_per_s)
        ],
        align=("left", "right", "right", "right", "right", "right"),
        wrap=("system",),
    )
    for name, reason in found.failed.items():
        note(f"{name}: not measured: {reason}")
    versions = ("torch", "transformers", "openvino", "sentence-transformers")
    summary(", ".join(f"{name} {machine[name]}" for name in versions if name in machine))


def _plot(found: BenchReport, collection: str) -> str:
    from dear.report.charts import Point, scatter

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
