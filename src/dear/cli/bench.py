"""`dear bench`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from dear.cli.loading import steps
from dear.cli.options import expanded
from dear.cli.output import note, print_json, summary, table
from dear.cli.progress import progress
from dear.steps.options import BenchOptions

if TYPE_CHECKING:
    from dear.bench.run import BenchReport


@expanded
def bench(
    options: BenchOptions,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of a table.")] = False,
) -> None:
    """Measure scoring in turns: our engines, exports and installed peers, on the same pairs."""
    found = steps.bench.bench(options, watch=progress)
    if as_json:
        print_json(found.report.to_dict())
    else:
        _show(found.report, found.collection)
    if options.plot is not None:
        summary(f"{options.plot}: drawn", options.plot)


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
