"""`dear check`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dear.cli.loading import steps
from dear.cli.options import expanded
from dear.cli.output import (
    Align,
    JsonFile,
    JsonOutput,
    count,
    duration,
    note,
    quiet,
    table,
)
from dear.cli.progress import progress
from dear.steps.options import CheckOptions

if TYPE_CHECKING:
    from dear.evaluate.robustness import Line
    from dear.steps.check import CheckedRanker


@expanded
def check(
    options: CheckOptions,
    json_file: JsonFile = None,
) -> None:
    """Check how a ranker stands orders, attacks, typos, cuts and strange passages."""
    json = JsonOutput(json_file)
    found = steps.check.check(options, watch=progress)
    json.give(found.values)
    if not json.instead:
        _show(found)
    for line in found.report.notes:
        note(line)


_HEADERS = ("check", "change", "verdict", "by", "value", "queries", "nDCG@10", "p", "also")
_ALIGN: tuple[Align, ...] = tuple(
    "right" if header in ("value", "queries", "nDCG@10", "p") else "left" for header in _HEADERS
)


def _show(found: CheckedRanker) -> None:
    report = found.report
    table(_HEADERS, [_row(line) for line in report.lines], align=_ALIGN, wrap=("also", "by"))
    if quiet.get():
        return
    print()
    for name in report.checks:
        print(f"{name}: {report.verdict(name) or 'no verdict'}")
    print()
    for name, limit in report.limits.items():
        print(f"{name}: {limit.says}; holds to {limit.holds:g}, sensitive to {limit.sensitive:g}")
    ndcg = "" if report.ndcg is None else f", nDCG@10 {report.ndcg:.4f} unchanged"
    print(
        f"{found.ranker} on {found.collection}: {count(report.queries, 'query')}, "
        f"{count(report.passages, 'passage')}{ndcg}; the top is {report.top}; "
        f"seed {report.seed}; {duration(found.seconds)}"
    )


def _row(line: Line) -> tuple[str, ...]:
    c = line.comparison
    numbers = ", ".join(f"{name} {value:.4g}" for name, value in line.numbers.items())
    return (
        line.check,
        line.name,
        line.verdict or "",
        line.limit or "",
        "" if line.value is None else f"{line.value:.4g}",
        str(line.count),
        "" if c is None else f"{c.difference:+.4f}",
        "" if c is None else f"{c.p_randomisation:.3f}",
        line.error or numbers,
    )
