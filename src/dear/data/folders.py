"""The files of a collection's folder, and where named collections are on this machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, TypeAlias

from dear.data.catalogue import COLLECTIONS, CollectionEntry
from dear.data.formats import (
    read_corpus,
    read_corpus_tsv,
    read_corpus_txt,
    read_document_folder,
    read_documents,
    read_queries,
    read_queries_tsv,
    read_queries_txt,
)
from dear.data.formats.beir import plain_or_gz, read_answers
from dear.data.formats.plain import document_files
from dear.errors import DataError
from dear.records import Passage, Query

DOCUMENTS_FILE = "passages.tsv"
"""Passage id → document id, in a collection that `dear split` made."""


_PARTS = ("corpus", "queries", "qrels", "runs", "answers", "passages")


def is_of_collection(name: str) -> bool:
    """Whether a collection reads a file of its folder, by the file's path in it."""
    return name.partition("/")[0].partition(".")[0] in _PARTS


def corpus_reader(root: Path) -> Callable[[], dict[str, Passage]] | None:
    """What reads the folder's corpus; None where it holds none."""
    for ending, read in (
        ("jsonl", read_corpus),
        ("tsv", read_corpus_tsv),
        ("txt", read_corpus_txt),
    ):
        if path := plain_or_gz(root / f"corpus.{ending}"):
            return partial(read, path)
    documents = root / "corpus"
    return partial(read_document_folder, documents) if documents.is_dir() else None


def corpus_files(root: Path) -> list[Path]:
    """All files that `corpus_reader` reads; empty where it holds none."""
    for ending in ("jsonl", "tsv", "txt"):
        if path := plain_or_gz(root / f"corpus.{ending}"):
            return [path]
    documents = root / "corpus"
    return document_files(documents) if documents.is_dir() else []


def folder_queries(root: Path) -> dict[str, Query]:
    """Query id → query. DataError where the folder holds no queries."""
    for ending, read in (
        ("jsonl", read_queries),
        ("tsv", read_queries_tsv),
        ("txt", read_queries_txt),
    ):
        if path := plain_or_gz(root / f"queries.{ending}"):
            return read(path)
    wanted = "queries.jsonl, queries.tsv or queries.txt"
    raise DataError.at(root, None, f"holds no queries: expected {wanted}")


def answers_reader(root: Path) -> Callable[[], dict[str, tuple[str, ...]]] | None:
    """What reads the folder's answers.jsonl; None where it holds none."""
    path = plain_or_gz(root / "answers.jsonl")
    return None if path is None else partial(read_answers, path)


def question_files(root: Path) -> dict[str, Path]:
    """Queries, judgements with their notes, and answers: path inside the folder → file."""
    names = [f"queries.{ending}" for ending in ("jsonl", "tsv", "txt")]
    first = next((path for name in names if (path := plain_or_gz(root / name))), None)
    judged = [
        p for ending in ("*.tsv", "*.tsv.gz", "*.json") for p in (root / "qrels").glob(ending)
    ]
    files = [first, *sorted(judged), plain_or_gz(root / "answers.jsonl")]
    return {path.relative_to(root).as_posix(): path for path in files if path is not None}


def documents_reader(root: Path) -> Callable[[], dict[str, str]] | None:
    """What reads whose passages the corpus holds; None where they are of no documents."""
    path = plain_or_gz(root / DOCUMENTS_FILE)
    return None if path is None else partial(read_documents, path)


Source: TypeAlias = Literal["folder", "made here", "ir_datasets", "hub", "extra", "by hand"]
"""What opening a collection by name comes to: a folder; a collection made on the spot; a library
that is installed and downloads it; an extra to install first; or nothing, before a person has
put it into a folder."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ListedCollection:
    """An entry, and where it is on this machine; folder: None where absent or made on the spot."""

    entry: CollectionEntry
    source: Source
    folder: Path | None

    @property
    def present(self) -> bool:
        """Whether it opens without a network."""
        return self.source in ("folder", "made here")


def data_folders() -> tuple[Path, ...]:
    """Where named collections are looked for: DEAR_DATA (separated as PATH is), then ./data."""
    named = os.environ.get("DEAR_DATA", "").split(os.pathsep)
    return (*(Path(folder).expanduser() for folder in named if folder), Path("data"))


def list_collections() -> list[ListedCollection]:
    """Every registered collection, in the table's order."""
    return [locate(entry) for entry in COLLECTIONS.values()]


def locate(entry: CollectionEntry) -> ListedCollection:
    """Where one is. Nothing is opened, no library is loaded."""
    if entry.opener == "pydocs":
        return ListedCollection(entry=entry, source="made here", folder=None)
    folder = folder_of(entry)
    source: Source = "folder" if folder is not None else _source(entry)
    return ListedCollection(entry=entry, source=source, folder=folder)


def folder_of(entry: CollectionEntry) -> Path | None:
    """The first folder with a corpus under the entry's name or an alias."""
    return next((place for place in places(entry) if corpus_reader(place)), None)


def places(entry: CollectionEntry) -> Iterator[Path]:
    """The folders that are looked at, in their order."""
    return (folder / name for folder in data_folders() for name in entry.names)


def _source(entry: CollectionEntry) -> Source:
    if entry.restricted or not (entry.irds or entry.hub):
        return "by hand"
    if entry.irds and is_installed("ir_datasets"):
        return "ir_datasets"
    if entry.hub and is_installed("datasets"):
        return "hub"
    return "extra"


def is_installed(module: str) -> bool:
    """Whether it could be imported; it is not."""
    try:
        return find_spec(module) is not None
    except ValueError:  # found in sys.modules, and broken or None there
        return False
