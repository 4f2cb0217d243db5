"""What commands print: tables and summaries to standard output, notes to standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Literal

Align = Literal["left", "right"]

quiet: ContextVar[bool] = ContextVar("quiet", default=False)
"""True under --quiet."""

UNLIMITED = 100_000
"""Columns for a table that goes to a file or a pipe: every row stays one line."""


def note(text: str) -> None:
    """A line on standard error, unless --quiet."""
    if not quiet.get():
        print(f"dear: {text}", file=sys.stderr)


def summary(text: str, written: Path | None = None) -> None:
    """A line about what was done, unless --quiet.

    written: the file that the command wrote. Standard error is used where that is no regular
    file, because it may be standard output.
    """
    if not quiet.get():
        beside = written is not None and not written.is_file()
        print(text, file=sys.stderr if beside else sys.stdout)


def table(
    headers: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    align: Sequence[Align],
    wrap: Sequence[str] = (),
    shorten: str | None = None,
) -> None:
    """A table on standard output; one line a row in a pipe.

    align: one for each column.  wrap: headers of the columns that give way, line by line, where
    the terminal is narrow.  shorten: the one that is cut with `…` there. What is still too wide
    is printed whole.
    """
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for header, side in zip(headers, align, strict=True):
        cut = header == shorten
        grid.add_column(
            header,
            justify=side,
            no_wrap=header not in wrap,
            overflow="ellipsis" if cut else "fold",
            min_width=20 if cut else None,
        )
    for row in rows:
        grid.add_row(*(Text(cell) for cell in row))  # Text: brackets in a cell are no markup
    console = Console(width=None if sys.stdout.isatty() else UNLIMITED, highlight=False)
    free = console.options.update(width=UNLIMITED)
    if not shorten and Measurement.get(console, free, grid).minimum > console.width:
        console = Console(width=UNLIMITED, highlight=False)
    with console.capture() as captured:
        console.print(grid)
    # rich fills every row up with spaces
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))


def print_json(value: Any) -> None:
    """Indented JSON on standard output, in ASCII where that cannot show the rest of Unicode."""
    encoding = (sys.stdout.encoding or "ascii").lower().replace("-", "")
    print(json.dumps(value, ensure_ascii=not encoding.startswith("utf"), indent=2, allow_nan=False))


def duration(seconds: float) -> str:
    """`42 s`, `3 min 05 s`, `2 h 07 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def rate(count: float, seconds: float) -> str:
    """`123/s`; one decimal below 10."""
    per_second = count / max(seconds, 1e-9)
    return f"{per_second:.1f}/s" if per_second < 10 else f"{per_second:,.0f}/s"


def count(number: int, thing: str) -> str:
    """`1 query`, `1,200 pairs`."""
    plural = f"{thing[:-1]}ies" if thing.endswith("y") else f"{thing}s"
    return f"{number:,} {thing if number == 1 else plural}"
