"""The collections known by name: a literal table, one entry each."""

from __future__ import annotations

from dear.data.catalogue.beir import BEIR
from dear.data.catalogue.entry import CollectionEntry, Split
from dear.data.catalogue.reasoning import REASONING
from dear.data.catalogue.small import PYDOCS, SMALL
from dear.data.catalogue.web import WEB

__all__ = [
    "COLLECTIONS",
    "FAMILIES",
    "CollectionEntry",
    "Split",
    "entry_of_irds",
    "find_entry",
    "known_names",
]

COLLECTIONS: dict[str, CollectionEntry] = {
    entry.name: entry for entry in (PYDOCS, *WEB, *BEIR, *REASONING, *SMALL)
}

FAMILIES: dict[str, tuple[str, ...]] = {
    family: tuple(e.name for e in COLLECTIONS.values() if e.family == family)
    for family in dict.fromkeys(e.family for e in COLLECTIONS.values() if e.family)
}
"""Name of a benchmark of several collections → their names."""

_BY_NAME = {name: entry for entry in COLLECTIONS.values() for name in entry.names}
_BY_IRDS = {one: entry for entry in COLLECTIONS.values() for one in entry.irds.values()}


def find_entry(name: str) -> CollectionEntry | None:
    """The entry of that name or alias; `_` reads as `-`, and case does not matter."""
    return _BY_NAME.get(name.lower().replace("_", "-"))


def entry_of_irds(dataset_id: str) -> CollectionEntry | None:
    """The entry that one of ir_datasets' ids is a split of."""
    return _BY_IRDS.get(dataset_id)


def known_names() -> tuple[str, ...]:
    """Every name and alias, and the families'."""
    return (*_BY_NAME, *FAMILIES)
