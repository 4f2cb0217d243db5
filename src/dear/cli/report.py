"""`dear report`."""

from __future__ import annotations

from dear.cli.loading import steps
from dear.cli.options import expanded
from dear.cli.output import count, note, summary
from dear.steps.options import ReportOptions


@expanded
def report(options: ReportOptions) -> None:
    """Write one file that shows what runs are worth: tables, plots, queries to browse."""
    result = steps.report.report(options)
    for line in result.notes:
        note(line)
    parts = result.report.parts
    runs = sum(len(part.study.entries) for part in parts)
    for path in result.outputs:
        summary(f"{path}: {count(runs, 'run')} on {count(len(parts), 'collection')}", path)
