"""How `dear compare` looks in a terminal: two columns, or one list below the other."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dear.characters import visible_line
from dear.cli.output import below, quiet
from dear.evaluate.beside import beside

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from dear.cli.compare import Pair
    from dear.evaluate.beside import Beside, Place

PIPE_COLUMNS = 140
"""Columns where there is no terminal; COLUMNS overrules."""

SIDE_BY_SIDE = 84
"""Columns from which two rankings stand side by side."""

SIGNS = {
    "up": "▲",
    "down": "▼",
    "to": "→",
    "relevant": "●",
    "other": "○",
    "minus": "−",
}
ASCII = {"up": "^", "down": "v", "to": ">", "relevant": "*", "other": "o", "minus": "-"}

GAIN, LOSS, ALONE, FAINT = "green", "red", "yellow", "dim"


def show(pair: Pair, chosen: Sequence[str], *, ids: bool) -> None:
    """Every chosen query, and what the signs mean."""
    from rich.console import Console

    out = below(sys.stdout)
    columns = None if out.isatty() else int(os.environ.get("COLUMNS") or PIPE_COLUMNS)
    console = Console(file=out, width=columns, highlight=False, markup=False)
    first, second = map(visible_line, pair.names)
    pair = replace(pair, names=(first, second))
    encoding = (getattr(sys.stdout, "encoding", None) or "utf-8").lower()
    signs = SIGNS if encoding.replace("-", "").startswith("utf") else ASCII
    for place, query_id in enumerate(chosen):
        if place:
            console.print()
        grades = (pair.judgements or {}).get(query_id, {})
        both = beside(query_id, *pair.runs, grades, pair.top)
        _head(console, pair, query_id, signs)
        console.print()
        _rankings(console, pair, both, signs, ids)
        console.print()
        for name, only in zip(pair.names, (both.only_a, both.only_b), strict=True):
            _only(console, pair, name, only, signs)
    if not quiet.get():
        console.print(_legend(pair, signs), style=FAINT, soft_wrap=True)


def _head(console: Console, pair: Pair, query_id: str, signs: dict[str, str]) -> None:
    from rich.text import Text

    query = pair.queries.get(query_id)
    text = "" if query is None else visible_line(" ".join(query.text.split()))
    named = f"query {visible_line(query_id)}"
    console.print(Text.assemble((named, "bold"), f"  {text}"), soft_wrap=True)
    if pair.values is not None and query_id in pair.values[0]:
        a, b = (values[query_id] for values in pair.values)
        difference = b - a
        sign = "+" if difference > 0 else signs["minus"] if difference < 0 else ""
        colour = GAIN if difference > 0 else LOSS if difference < 0 else FAINT
        console.print(
            Text.assemble(
                f"{pair.measure}  {pair.names[0]} {a:.4f}  {pair.names[1]} {b:.4f}  ",
                (f"{sign}{abs(difference):.4f}", colour),
            ),
            soft_wrap=True,
        )
    else:
        console.print(Text("nobody judged this query", style=FAINT), soft_wrap=True)
    for name, run in zip(pair.names, pair.runs, strict=True):
        if query_id not in run:
            console.print(Text(f"{name} ranks nothing for it", style=LOSS), soft_wrap=True)


def _rankings(console: Console, pair: Pair, both: Beside, signs: dict[str, str], ids: bool) -> None:
    from rich.text import Text

    a = [_cells(pair, place, signs, ids, left=True) for place in both.a]
    b = [_cells(pair, place, signs, ids, left=False) for place in both.b]
    if console.width < SIDE_BY_SIDE:
        for name, rows in zip(pair.names, (a, b), strict=True):
            _table(console, [name], rows)
        return
    empty = [[Text()] * 4]
    rows = [
        [*one, *other]
        for one, other in zip(
            a + empty * (len(b) - len(a)), b + empty * (len(a) - len(b)), strict=True
        )
    ]
    _table(console, pair.names, rows)


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


def _cells(pair: Pair, place: Place, signs: dict[str, str], ids: bool, *, left: bool) -> list[Text]:
    """Rank, movement, grade, text."""
    from rich.text import Text

    passage = pair.collection.corpus.get(place.passage_id)
    words = "" if passage is None else visible_line(" ".join(passage.full_text.split()))
    identifier = visible_line(place.passage_id)
    text = Text(words or identifier, style=_style(pair, place))
    if ids and words:
        text = Text.assemble((f"{identifier} ", FAINT), text)
    return [
        Text(str(place.rank)),
        _movement(place, signs, left=left),
        Text(_grade(pair, place, signs), style=_style(pair, place)),
        text,
    ]


def _movement(place: Place, signs: dict[str, str], *, left: bool) -> Text:
    """On the left, where it went; on the right, how far it came."""
    from rich.text import Text

    moved = place.moved
    if moved is None:
        return Text("gone" if left else "new", style=ALONE)
    if left:
        return Text(f"{signs['to']}{place.other}", style=FAINT if moved == 0 else "")
    if moved == 0:
        return Text("=", style=FAINT)
    return Text(
        f"{signs['up' if moved > 0 else 'down']}{abs(moved)}", style=GAIN if moved > 0 else LOSS
    )


def _grade(pair: Pair, place: Place, signs: dict[str, str]) -> str:
    if place.grade is None:
        return "" if pair.judgements is None else "?"
    relevant = place.grade >= pair.min_grade
    return f"{signs['relevant' if relevant else 'other']}{place.grade}"


def _style(pair: Pair, place: Place) -> str:
    if place.grade is None:
        return "" if pair.judgements is None else FAINT
    return "bold green" if place.grade >= pair.min_grade else ""


def _only(
    console: Console, pair: Pair, name: str, only: Sequence[Place], signs: dict[str, str]
) -> None:
    if not only:
        return
    line = f"only in the top {pair.top} of {name}: "
    if pair.judgements is None:
        line += ", ".join(str(place.rank) for place in only)
    else:
        relevant = sum(p.grade is not None and p.grade >= pair.min_grade for p in only)
        line += f"{len(only)}, {relevant} of them relevant ("
        line += ", ".join(f"{place.rank} {_grade(pair, place, signs)}" for place in only) + ")"
    console.print(line, style=ALONE, soft_wrap=True)


def _legend(pair: Pair, signs: dict[str, str]) -> str:
    a, b = pair.names
    grade = f" (grade {pair.min_grade} and up)" if pair.min_grade > 1 else ""
    judged = f"{signs['relevant']} relevant{grade}, {signs['other']} not, ? not judged; "
    return (
        f"{'' if pair.judgements is None else judged}"
        f"{signs['to']} its rank in {b}; {signs['up']} {signs['down']} ranks up or down "
        f"from {a}; gone, new: the other does not rank it"
    )
