"""How `dear compare` looks in a terminal: two columns, or one list below the other."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dear.characters import visible_line
from dear.cli.output import below, quiet

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from dear.evaluate.side_by_side import Place, SideBySide
    from dear.steps.compare import CompareResult

_PIPE_COLUMNS = 140
"""Columns where there is no terminal; COLUMNS overrules."""

_SIDE_BY_SIDE = 84
"""Columns from which two rankings stand side by side."""

_SIGNS = {
    "up": "▲",
    "down": "▼",
    "to": "→",
    "relevant": "●",
    "other": "○",
    "minus": "−",
}
_ASCII = {"up": "^", "down": "v", "to": ">", "relevant": "*", "other": "o", "minus": "-"}

_GAIN, _LOSS, _ALONE, _FAINT = "green", "red", "yellow", "dim"


def show(result: CompareResult, *, ids: bool) -> None:
    """Every chosen query, and what the signs mean."""
    from rich.console import Console

    out = below(sys.stdout)
    columns = None if out.isatty() else int(os.environ.get("COLUMNS") or _PIPE_COLUMNS)
    console = Console(file=out, width=columns, highlight=False, markup=False)
    first, second = map(visible_line, result.names)
    result = replace(result, names=(first, second))
    encoding = (getattr(sys.stdout, "encoding", None) or "utf-8").lower()
    signs = _SIGNS if encoding.replace("-", "").startswith("utf") else _ASCII
    for place, query_id in enumerate(result.chosen):
        if place:
            console.print()
        both = result.rankings(query_id)
        _head(console, result, query_id, signs)
        console.print()
        _rankings(console, result, both, signs, ids)
        console.print()
        for name, only in zip(result.names, (both.only_a, both.only_b), strict=True):
            _only(console, result, name, only, signs)
    if not quiet.get():
        console.print(_legend(result, signs), style=_FAINT, soft_wrap=True)


def _head(console: Console, result: CompareResult, query_id: str, signs: dict[str, str]) -> None:
    from rich.text import Text

    query = result.queries.get(query_id)
    text = "" if query is None else visible_line(" ".join(query.text.split()))
    named = f"query {visible_line(query_id)}"
    console.print(Text.assemble((named, "bold"), f"  {text}"), soft_wrap=True)
    if result.values is not None and query_id in result.values[0]:
        a, b = (values[query_id] for values in result.values)
        difference = b - a
        sign = "+" if difference > 0 else signs["minus"] if difference < 0 else ""
        colour = _GAIN if difference > 0 else _LOSS if difference < 0 else _FAINT
        console.print(
            Text.assemble(
                f"{result.measure}  {result.names[0]} {a:.4f}  {result.names[1]} {b:.4f}  ",
                (f"{sign}{abs(difference):.4f}", colour),
            ),
            soft_wrap=True,
        )
    else:
        console.print(Text("nobody judged this query", style=_FAINT), soft_wrap=True)
    for name, run in zip(result.names, result.runs, strict=True):
        if query_id not in run:
            console.print(Text(f"{name} ranks nothing for it", style=_LOSS), soft_wrap=True)


def _rankings(
    console: Console, result: CompareResult, both: SideBySide, signs: dict[str, str], ids: bool
) -> None:
    from rich.text import Text

    a = [_cells(result, place, signs, ids, left=True) for place in both.a]
    b = [_cells(result, place, signs, ids, left=False) for place in both.b]
    if console.width < _SIDE_BY_SIDE:
        for name, rows in zip(result.names, (a, b), strict=True):
            _table(console, [name], rows)
        return
    empty = [[Text()] * 4]
    rows = [
        [*one, *other]
        for one, other in zip(
            a + empty * (len(b) - len(a)), b + empty * (len(a) - len(b)), strict=True
        )
    ]
    _table(console, result.names, rows)


def _table(console: Console, names: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    from rich.table import Table

    grid = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold", expand=True)
    for place, name in enumerate(names):
        if place:
            grid.add_column("", width=1)
        grid.add_column("#", justify="right", no_wrap=True)
        grid.add_column("", no_wrap=True)
        grid.add_column("", no_wrap=True)
        grid.add_column(name, no_wrap=True, overflow="ellipsis", ratio=1)
    for row in rows:
        halves = [row[start : start + 4] for start in range(0, len(row), 4)]
        grid.add_row(*halves[0], *(cell for half in halves[1:] for cell in ("", *half)))
    with console.capture() as captured:
        console.print(grid)
    # rich fills every row up with spaces
    console.file.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))


def _cells(
    result: CompareResult, place: Place, signs: dict[str, str], ids: bool, *, left: bool
) -> list[Text]:
    """Rank, movement, grade, text."""
    from rich.text import Text

    passage = result.collection.corpus.get(place.passage_id)
    words = "" if passage is None else visible_line(" ".join(passage.full_text.split()))
    identifier = visible_line(place.passage_id)
    text = Text(words or identifier, style=_style(result, place))
    if ids and words:
        text = Text.assemble((f"{identifier} ", _FAINT), text)
    return [
        Text(str(place.rank)),
        _movement(place, signs, left=left),
        Text(_grade(result, place, signs), style=_style(result, place)),
        text,
    ]


def _movement(place: Place, signs: dict[str, str], *, left: bool) -> Text:
    """On the left, where it went; on the right, how far it came."""
    from rich.text import Text

    moved = place.moved
    if moved is None:
        return Text("gone" if left else "new", style=_ALONE)
    if left:
        return Text(f"{signs['to']}{place.other}", style=_FAINT if moved == 0 else "")
    if moved == 0:
        return Text("=", style=_FAINT)
    return Text(
        f"{signs['up' if moved > 0 else 'down']}{abs(moved)}", style=_GAIN if moved > 0 else _LOSS
    )


def _grade(result: CompareResult, place: Place, signs: dict[str, str]) -> str:
    if place.grade is None:
        return "" if result.judgements is None else "?"
    relevant = place.grade >= result.min_grade
    return f"{signs['relevant' if relevant else 'other']}{place.grade}"


def _style(result: CompareResult, place: Place) -> str:
    if place.grade is None:
        return "" if result.judgements is None else _FAINT
    return "bold green" if place.grade >= result.min_grade else ""


def _only(
    console: Console, result: CompareResult, name: str, only: Sequence[Place], signs: dict[str, str]
) -> None:
    if not only:
        return
    line = f"only in the top {result.options.top} of {name}: "
    if result.judgements is None:
        line += ", ".join(str(place.rank) for place in only)
    else:
        relevant = sum(p.grade is not None and p.grade >= result.min_grade for p in only)
        line += f"{len(only)}, {relevant} of them relevant ("
        line += ", ".join(f"{place.rank} {_grade(result, place, signs)}" for place in only) + ")"
    console.print(line, style=_ALONE, soft_wrap=True)


def _legend(result: CompareResult, signs: dict[str, str]) -> str:
    a, b = result.names
    grade = f" (grade {result.min_grade} and up)" if result.min_grade > 1 else ""
    judged = f"{signs['relevant']} relevant{grade}, {signs['other']} not, ? not judged; "
    return (
        f"{'' if result.judgements is None else judged}"
        f"{signs['to']} its rank in {b}; {signs['up']} {signs['down']} ranks up or down "
        f"from {a}; gone, new: the other does not rank it"
    )
