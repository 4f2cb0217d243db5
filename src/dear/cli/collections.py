"""`dear collections`: what is known by name, where it is, and how to get the rest."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dear.cli.output import Align, count, note, print_json, table
from dear.data.catalogue import FAMILIES, find_entry, known_names
from dear.data.collections import Collection, data_folders, list_collections
from dear.errors import ConfigError, nearest
from dear.evaluate.published import NOT_MEASURED, published_rows

if TYPE_CHECKING:
    from dear.data.catalogue import CollectionEntry
    from dear.data.folders import ListedCollection
    from dear.evaluate.published import PublishedRow

NARROW = 110
"""Columns of a terminal below which the table has fewer."""

INDENT = 14
"""Columns before the text of an entry."""


def collections(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="Everything about this one.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of a table.")] = False,
) -> None:
    """List the collections known by name, or show one of them."""
    listed = list_collections()
    if name is not None:
        listed = _named(name, listed)
        one = listed[0] if len(listed) == 1 else None
        if as_json:
            print_json(_as_dict(one) if one is not None else [_as_dict(item) for item in listed])
        elif one is not None:
            _show_one(one)
        else:
            _show_table([_row(item) for item in listed])
        return
    if as_json:
        print_json([_as_dict(item) for item in listed])
        return
    _show_table(list(_rows(listed)))
    places = ", ".join(map(str, data_folders()))
    note(
        "here: in a folder; ir_datasets, hub: downloaded when opened by name; extra: to be "
        "installed first; by hand: `dear collections NAME` says how"
    )
    note(f"looked for in {places} (DEAR_DATA adds folders); any folder with a corpus is one, too")


def _named(name: str, listed: Sequence[ListedCollection]) -> list[ListedCollection]:
    """The one of that name or alias, or the members of a family."""
    entry = find_entry(name)
    wanted = (entry.name,) if entry is not None else FAMILIES.get(name.lower(), ())
    if not wanted:
        hint = nearest(name.lower(), known_names())
        raise ConfigError(
            f"no collection {name!r}{hint if '?' in hint else '; `dear collections` lists them'}"
        )
    return [item for item in listed if item.entry.name in wanted]


def _rows(listed: Sequence[ListedCollection]) -> Iterator[tuple[str, ...]]:
    """A heading for each group, a row for each collection or family."""
    group = family = None
    for item in listed:
        entry = item.entry
        if entry.group != group:
            group = entry.group
            yield (f"— {group}", "", "", "", "", "")
        if entry.family is None:
            yield _row(item)
        elif entry.family != family:
            yield _family_row([i for i in listed if i.entry.family == entry.family])
        family = entry.family


def _row(item: ListedCollection) -> tuple[str, ...]:
    entry = item.entry
    documents = "" if entry.documents is None else f"{entry.documents:,}"
    return (
        entry.name,
        _where(item),
        documents,
        _judged(entry),
        entry.main_measure,
        entry.description,
    )


def _family_row(members: Sequence[ListedCollection]) -> tuple[str, ...]:
    family = members[0].entry.family
    here = sum(item.present for item in members)
    documents = sum(item.entry.documents or 0 for item in members)
    queries = sum(split.queries or 0 for i in members for split in i.entry.splits.values())
    return (
        f"{family}-…",
        f"{here} of {len(members)}" if here else _where(members[0]),
        f"{documents:,}",
        f"{queries:,} test",
        members[0].entry.main_measure,
        f"{len(members)} collections: dear collections {family}",
    )


def _where(item: ListedCollection) -> str:
    return "here" if item.source == "folder" else item.source


def _judged(entry: CollectionEntry) -> str:
    """Judged queries of the split that is reported: test, else the only other."""
    for name in ("test", "dev"):
        if name in entry.splits:
            queries = entry.splits[name].queries
            return name if queries is None else f"{queries:,} {name}"
    return ""


def _show_table(rows: Sequence[Sequence[str]]) -> None:
    headers = ("name", "where", "documents", "queries", "by", "what it is")
    align: tuple[Align, ...] = ("left", "left", "right", "right", "left", "left")
    narrow = sys.stdout.isatty() and shutil.get_terminal_size().columns < NARROW
    kept = [i for i, h in enumerate(headers) if not (narrow and h in ("documents", "by"))]
    table(
        [headers[i] for i in kept],
        [[row[i] for i in kept] for row in rows],
        align=[align[i] for i in kept],
        shorten="what it is",
    )


def _show_one(item: ListedCollection) -> None:
    entry = item.entry
    print(f"{entry.name}: {entry.description}")
    for label, text in _facts(item):
        print(f"{label:<{INDENT}}{text}")
    rows = published_rows(entry.name)
    if rows:
        print()
        table(
            (f"published ({NOT_MEASURED.partition('; ')[2]})", "measure", "", "over", "source"),
            [_published(row) for row in rows],
            align=("left", "left", "right", "left", "left"),
            wrap=("source",),
        )


def _published(row: PublishedRow) -> tuple[str, ...]:
    over = "" if row.first_stage is None else row.first_stage
    if row.depth is not None:
        over += f" top-{row.depth}"
    source = "; ".join(part for part in (row.source, row.caveat) if part)
    return (row.system, row.measure, f"{row.value:.4f}", over, source)


def _facts(item: ListedCollection) -> Iterator[tuple[str, str]]:
    entry = item.entry
    if entry.aliases:
        yield "also", ", ".join(entry.aliases)
    if item.folder is not None:
        yield "here", str(item.folder)
        yield from _runs(item)
    elif item.present:
        yield "here", "always; it is made from the running Python"
    if entry.documents is not None:
        # a folder of dl19 holds what was retrieved, not the web
        whole = " in the whole collection" if item.folder is not None else ""
        yield "documents", f"{entry.documents:,}{whole}"
    label = "judged"
    for name, split in entry.splits.items():
        queries = "queries not counted" if split.queries is None else count(split.queries, "query")
        judged = "" if split.judgements is None else f", {count(split.judgements, 'judgement')}"
        yield label, f"{name}: {queries}{judged}"
        label = ""
    if entry.min_grade > 1:
        yield "relevant", f"grade {entry.min_grade} and up, in MRR, MAP, recall, precision"
    yield "reported by", entry.main_measure
    yield "usually", f"{entry.first_stage} top-{entry.depth}, reranked"
    yield "licence", entry.licence
    label = "get it"
    for way in _ways(item):
        yield label, way
        label = ""
    if entry.caveat:
        yield "take care", entry.caveat


def _runs(item: ListedCollection) -> Iterator[tuple[str, str]]:
    if item.folder is None:
        return
    collection = Collection.from_folder(item.folder, item.entry.name)
    label = "runs"
    for split in collection.splits:
        if names := collection.runs(split):
            yield label, f"{split}: {', '.join(names)}"
            label = ""


def _ways(item: ListedCollection) -> Iterator[str]:
    entry = item.entry
    if entry.opener == "pydocs":
        return
    if entry.access:
        yield entry.access
    if entry.irds:
        yield f"ir_datasets (pip install 'dear-rerank[irds]'): {', '.join(entry.irds.values())}"
    if entry.hub:
        yield f"Hugging Face hub (pip install 'dear-rerank[hub]'): {entry.hub}"
    yield f"a folder {entry.name}/ in BEIR layout below DEAR_DATA or data/, which goes first"


def _as_dict(item: ListedCollection) -> dict[str, Any]:
    return {
        **asdict(item.entry),
        "present": item.present,
        "where": item.source,
        "folder": None if item.folder is None else str(item.folder),
        "published": [asdict(row) for row in published_rows(item.entry.name)],
    }
