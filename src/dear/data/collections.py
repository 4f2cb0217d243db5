"""Open a collection by name, folder, or another library's catalogue."""

from __future__ import annotations

import logging
from pathlib import Path

from dear.data.catalogue import (
    COLLECTIONS,
    FAMILIES,
    CollectionEntry,
    entry_of_irds,
    find_entry,
    known_names,
)
from dear.data.collection import Answers, Collection, Grades
from dear.data.folders import (
    ListedCollection,
    corpus_reader,
    data_folders,
    folder_of,
    is_installed,
    list_collections,
)
from dear.data.hub import open_hub
from dear.data.irds import open_irds, open_irds_splits
from dear.data.pydocs import open_pydocs
from dear.errors import ConfigError, MissingExtra, nearest

__all__ = [
    "COLLECTIONS",
    "Answers",
    "Collection",
    "CollectionEntry",
    "Grades",
    "ListedCollection",
    "data_folders",
    "list_collections",
    "open_collection",
]

logger = logging.getLogger(__name__)


def open_collection(spec: str | Path) -> Collection:
    """A collection by folder, by name, or from another library's catalogue.

    spec: a folder (`Collection.from_folder`); a name or an alias in COLLECTIONS, of which a local
    folder goes before ir_datasets, and that before the Hugging Face hub; `irds:ID`, or an ID with
    a slash in it, for ir_datasets; `hf:OWNER/NAME` or `hf:FOLDER` for a Hugging Face data set in
    BEIR layout; `rows:ROWS` or `rows:ROWS,CORPUS` for training rows (dear.data.row_collection). A
    folder that holds a corpus goes before a registered name.
    ConfigError: neither a folder nor a name; names the nearest known one. Or a name that is not
    on this machine and that nothing can download. MissingExtra: the library that could is not
    installed. What a download meets is a DataError, when it is read.
    """
    text = str(spec)
    folder = Path(spec).expanduser()
    if text.startswith("irds:"):
        return _open_irds(text.removeprefix("irds:"))
    if text.startswith("hf:"):
        return open_hub(text.removeprefix("hf:"))
    if text.startswith("rows:"):
        from dear.data.row_collection import open_row_collection

        return open_row_collection(text.removeprefix("rows:"))
    entry = find_entry(text)
    if folder.is_dir() and (corpus_reader(folder) or entry is None):
        return Collection.from_folder(folder, entry=find_entry(folder.resolve().name))
    if entry is not None:
        return _open_entry(entry)
    if folder.exists():
        raise ConfigError(f"{text} is a file; a collection is a folder with a corpus in it")
    if text in FAMILIES:
        parts = FAMILIES[text]
        raise ConfigError(f"{text!r} is {len(parts)} collections; name one: {', '.join(parts)}")
    if isinstance(spec, str) and "/" in text and not text.startswith((".", "/", "~")):
        return _open_slashed(text)
    raise ConfigError(f"no collection and no folder {text!r}{_nearest(text)}")


def _open_entry(entry: CollectionEntry) -> Collection:
    if entry.opener == "pydocs":
        return open_pydocs()
    folder = folder_of(entry)
    if folder is not None:
        return Collection.from_folder(folder, entry.name, entry=entry)
    looked = ", ".join(str(folder / entry.name) for folder in data_folders())
    absent = f"collection {entry.name!r} is not on this machine: looked for {looked}"
    if entry.irds and is_installed("ir_datasets"):
        logger.warning("%s; ir_datasets has it, or downloads it", absent)
        return open_irds_splits(entry)
    if entry.hub and is_installed("datasets"):
        logger.warning("%s; it is read from the Hugging Face hub (%s)", absent, entry.hub)
        return open_hub(entry.hub, entry=entry)
    how = "; ".join(
        (*([entry.access] if entry.access else []), "set DEAR_DATA to the folder that holds it")
    )
    if entry.irds or entry.hub:
        extra, package = ("irds", "ir-datasets") if entry.irds else ("hub", "datasets")
        raise MissingExtra(f"{absent}; or to download it, {MissingExtra.of(package, extra)}; {how}")
    raise ConfigError(f"{absent}; {how}")


def _open_slashed(text: str) -> Collection:
    # a mistyped path looks like an ir_datasets id: both readings go into the message
    try:
        return _open_irds(text)
    except MissingExtra as error:
        raise MissingExtra(
            f"no folder {text!r}; to take it as an ir_datasets id: {error}"
        ) from error
    except ConfigError as error:
        raise ConfigError(f"no folder {text!r}, and {error}{_nearest(text)}") from error


def _nearest(text: str) -> str:
    """A near name or alias; of all names there are too many for one line."""
    hint = nearest(text.lower(), known_names())
    return hint if hint.startswith("; did") else "; `dear collections` lists those known by name"


def _open_irds(dataset_id: str) -> Collection:
    return open_irds(dataset_id, entry=entry_of_irds(dataset_id))
