"""`dear distill`: the whole way, and the table at its end."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dear.cli.output import Align, duration, note, quiet, table
from dear.cli.progress import progress
from dear.cli.runs import check_folder

if TYPE_CHECKING:
    from dear.distill import Distilled, Glimpse, Report, Row


def distill(
    collection: Annotated[str, typer.Argument(metavar="COLLECTION", help="A name or a folder.")],
    recipe: Annotated[
        str, typer.Option("--recipe", metavar="NAME", help="A shipped recipe, or a TOML file.")
    ] = "laptop",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="Default: runs/COLLECTION."),
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change the recipe: student.queries=500."),
    ] = None,
) -> None:
    """The whole way: from a collection to a student.

    Ends with a table that shows what the teacher was worth. Goes on where it was stopped.
    """
    from dear.data.collections import open_collection
    from dear.distill import distill as run
    from dear.recipes import load_distill_recipe

    wanted = load_distill_recipe(recipe, changes or ())
    opened = open_collection(collection)
    folder = output or Path("runs") / opened.name
    check_folder(folder)
    note(f"{opened.name} → {folder}")
    found = run(opened, wanted, folder, watch=_watch, note=note)
    _show(found)


@contextlib.contextmanager
def _watch(what: str, unit: str) -> Iterator[Report]:
    with progress(what, unit) as report:
        yield lambda done, total: report(done, total)


def _show(found: Distilled) -> None:
    print(f"\n{found.collection}: {found.queries:,} test queries, best {found.top_k} reranked\n")
    judged = any(row.difference is not None for row in found.rows)
    headers = ["system", "nDCG@10" if judged else "agreement"]
    headers += ["95 % interval", "gain", "p"] if judged else []
    headers += ["parameters", "pairs/s", "training"]
    rows = [_cells(row, judged) for row in found.rows]
    align: list[Align] = ["left"]
    table(headers, rows, align=align + ["right"] * (len(headers) - 1))
    if quiet.get():
        return
    print()
    if not judged:
        print(f"agreement: {found.measure}; nothing is judged here.")
    else:
        print("gain and p against the first stage; p: paired randomisation, Holm-corrected.")
    if found.versus_control is not None:
        difference, p = found.versus_control
        print(f"The teacher was worth {difference:+.4f} to the student (p {_p(p)}).")
    print(f"All stages: {duration(sum(found.stage_seconds.values()))}.")
    if found.glimpse is not None:
        _show_glimpse(found.glimpse)
    print(f"\nThe student is in {found.folder / 'student'}:")
    print(f'  dear rerank "your query" passages.txt --model {found.folder / "student"}')


def _cells(row: Row, judged: bool) -> list[str]:
    cells = [row.system, f"{row.score:.4f}"]
    if judged:
        low_high = "" if row.interval is None else f"{row.interval[0]:.3f}-{row.interval[1]:.3f}"
        gain = "" if row.difference is None else f"{row.difference:+.4f}"
        cells += [low_high, gain, "" if row.p is None else _p(row.p)]
    millions = "" if row.parameters is None else f"{row.parameters / 1e6:.1f} M"
    pace = "" if row.pairs_per_s is None else f"{row.pairs_per_s:,.0f}"
    seconds = "" if row.seconds is None else duration(row.seconds)
    return [*cells, millions, pace, seconds]


def _p(p: float) -> str:
    return "< 0.0001" if p < 0.0001 else f"{p:.4f}"


def _show_glimpse(glimpse: Glimpse) -> None:
    print(f'\n"{glimpse.query}"')
    for title, texts, relevant in (
        ("  before:", glimpse.before, glimpse.relevant_before),
        ("  after:", glimpse.after, glimpse.relevant_after),
    ):
        print(title)
        for rank, (text, right) in enumerate(zip(texts, relevant, strict=True), 1):
            line = " ".join(text.split())
            print(f"  {'✓' if right else ' '} {rank}  {line[:70]}{'…' if len(line) > 70 else ''}")
