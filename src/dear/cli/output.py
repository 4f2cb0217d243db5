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


SHORTEST = 12
"""Columns of a cell that is wrapped or cut, at least."""


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

    align: left or right, one for each column.  wrap: headers of the columns that give way, line
    by line, where the terminal is narrow.  shorten: the one that is cut with `…` there. All
    other cells are whole.
    """
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(width=None if sys.stdout.isatty() else UNLIMITED, highlight=False)
    widths = [max(map(cell_len, column)) for column in zip(headers, *rows, strict=True)]
    room = console.width - sum(width + 2 for width in widths)
    cells = [[Text(cell) for cell in row] for row in rows]  # Text: brackets are no markup
    if shorten is not None:
        at = headers.index(shorten)
        for row in cells:
            row[at].truncate(max(SHORTEST, widths[at] + 2 + room), overflow="ellipsis")
    if room < 0 and not wrap and shorten is None:
        console = Console(width=UNLIMITED, highlight=False)
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for header, side, width in zip(headers, align, widths, strict=True):
        whole = header not in wrap and header != shorten
        grid.add_column(
            header,
            justify=side,
            no_wrap=header not in wrap,
            # rich would take from every column alike
            min_width=width if whole else min(width, SHORTEST),
        )
    for row in cells:
        grid.add_row(*row)
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
