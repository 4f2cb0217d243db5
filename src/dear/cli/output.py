"""What commands print: tables and summaries to standard output, notes to standard error."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import IO, Annotated, Any, Literal, TypeAlias

import typer

from dear.artifacts import check_output, write_json
from dear.characters import visible, visible_json, visible_line

Align = Literal["left", "right"]

quiet: ContextVar[bool] = ContextVar("quiet", default=False)
"""True under --quiet."""

UNLIMITED = 100_000
"""Columns for a table that goes to a file or a pipe: every row stays one line."""


SHORTEST = 12
"""Columns of a cell that is wrapped or cut, at least."""


class _Visible:
    """A text stream that shows control characters instead of sending them."""

    def __init__(self, stream: IO[str]) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        self.stream.write(visible(text))
        return len(text)

    def writelines(self, lines: Iterator[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextlib.contextmanager
def visible_streams() -> Iterator[None]:
    """All that is written to standard output and error passes `visible` on its way: no text, id,
    name or error of somebody else's gives orders to the terminal."""
    out: Any = _Visible(sys.stdout)
    err: Any = _Visible(sys.stderr)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        yield


def below(stream: Any) -> IO[str]:
    """The stream under `visible_streams`, for a rich Console, which sends escapes of its own: what
    it is given has passed `visible_line`."""
    while isinstance(stream, _Visible):
        stream = stream.stream
    found: IO[str] = stream
    return found


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

    out = below(sys.stdout)
    console = Console(file=out, width=None if out.isatty() else UNLIMITED, highlight=False)
    at = None if shorten is None else headers.index(shorten)
    gives_way = [header in wrap for header in headers]
    headers, *rows = [list(map(visible_line, row)) for row in (headers, *rows)]
    widths = [max(map(cell_len, column)) for column in zip(headers, *rows, strict=True)]
    room = console.width - sum(width + 2 for width in widths)
    cells = [[Text(cell) for cell in row] for row in rows]  # Text: brackets are no markup
    if at is not None:
        for row in cells:
            row[at].truncate(max(SHORTEST, widths[at] + 2 + room), overflow="ellipsis")
    if room < 0 and not wrap and shorten is None:
        console = Console(file=out, width=UNLIMITED, highlight=False)
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for place, (header, side, width) in enumerate(zip(headers, align, widths, strict=True)):
        whole = not gives_way[place] and place != at
        grid.add_column(
            header,
            justify=side,
            no_wrap=not gives_way[place],
            # rich would take from every column alike
            min_width=width if whole else min(width, SHORTEST),
        )
    for row in cells:
        grid.add_row(*row)
    with console.capture() as captured:
        console.print(grid)
    # rich fills every row up with spaces
    print("\n".join(line.rstrip() for line in captured.get().splitlines()), file=out)


def print_json(value: Any) -> None:
    """Indented JSON on standard output, in ASCII where that cannot show the rest of Unicode."""
    encoding = (sys.stdout.encoding or "ascii").lower().replace("-", "")
    ascii_only = not encoding.startswith("utf")
    print(visible_json(json.dumps(value, ensure_ascii=ascii_only, indent=2, allow_nan=False)))


JsonFile: TypeAlias = Annotated[
    Path | None,
    typer.Option("--json", metavar="FILE", help="Write everything; - is standard output."),
]


class JsonOutput:
    """Where `--json FILE` goes. DataError, before any work, for a file that cannot be written.

    instead: the JSON goes to standard output, in place of tables.
    """

    def __init__(self, file: Path | None) -> None:
        self.instead = file is not None and str(file) == "-"
        self._file = None if self.instead else file
        if self._file is not None:
            check_output(self._file)

    def give(self, values: Mapping[str, Any]) -> None:
        """Nothing happens without the option."""
        if self.instead:
            print_json(values)
        elif self._file is not None:
            write_json(self._file, values)


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


def excerpt(text: str, characters: int = 200) -> str:
    """The beginning of a passage, on one line."""
    line = " ".join(text[: 10 * characters].split())
    return line if len(line) <= characters else line[: characters - 1] + "…"
