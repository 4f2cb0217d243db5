"""Studies → a report that a person wants to look at: HTML, Markdown, LaTeX."""

from dear.report.parts import Cost, Curve, Reliability, Report, ReportPart
from dear.report.writing import (
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
