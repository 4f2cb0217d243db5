"""Studies → a report that a person wants to look at: HTML, Markdown, LaTeX."""

from dear.evaluate.report.parts import Cost, Curve, Reliability, Report, ReportPart
from dear.evaluate.report.writing import (
    MAX_QUERIES,
    WRITERS,
    write_latex,
    write_markdown,
    write_report,
    writer_of,
)

__all__ = [
    "MAX_QUERIES",
    "WRITERS",
    "Cost",
    "Curve",
    "Reliability",
    "Report",
    "ReportPart",
    "write_latex",
    "write_markdown",
    "write_report",
    "writer_of",
]
