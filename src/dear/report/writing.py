"""Reports into files: HTML, Markdown, LaTeX."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dear.artifacts import atomic_path
from dear.errors import ConfigError
from dear.report.page import page
from dear.report.parts import Report
from dear.report.text import latex, markdown

MAX_QUERIES = 50
"""Queries that are shown for each collection, unless something else is asked for."""


def write_report(path: Path | str, report: Report, *, max_queries: int = MAX_QUERIES) -> None:
    """One HTML file, that needs no other; the same report gives the same bytes.

    max_queries: shown for each collection. ConfigError: no collection, one twice, or costs or
    thoughts of a name that is no run of its study.
    """
    _check(report)
    if max_queries < 0:
        raise ConfigError(f"max_queries is {max_queries}: it must be 0 or more")
    _write(path, page(report, max_queries=max_queries))


def write_markdown(path: Path | str, report: Report) -> None:
    """The tables; errors as `write_report`."""
    _check(report)
    _write(path, markdown(report))


def write_latex(path: Path | str, report: Report) -> None:
    """The tables, for booktabs; errors as `write_report`."""
    _check(report)
    _write(path, latex(report))


WRITERS: dict[str, Callable[[Path, Report], None]] = {
    ".html": write_report,
    ".htm": write_report,
    ".md": write_markdown,
    ".tex": write_latex,
}
"""By the ending of the file."""


def writer_of(path: Path) -> Callable[[Path, Report], None]:
    """What writes such a file. ConfigError names the endings."""
    found = WRITERS.get(path.suffix.lower())
    if found is None:
        raise ConfigError(f"{path}: a report ends in {', '.join(WRITERS)}")
    return found


def _check(report: Report) -> None:
    if not report.parts:
        raise ConfigError("a report needs one collection at least")
    names = [p.study.collection for p in report.parts]
    twice = next((n for n in names if names.count(n) > 1), None)
    if twice is not None:
        raise ConfigError(f"the report holds collection {twice!r} twice")
    for part in report.parts:
        for name in (*part.costs, *part.thoughts):
            part.study.entry(name)


def _write(path: Path | str, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
