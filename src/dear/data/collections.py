"""A name or a folder → Collection: corpus, queries, judgements and runs, read when asked for."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Literal

from dear.data.formats import (
    beir_files,
    read_corpus,
    read_corpus_tsv,
    read_corpus_txt,
    read_document_folder,
    read_qrels,
    read_queries,
    read_queries_tsv,
    read_queries_txt,
    read_run,
)
from dear.data.formats.beir import plain_or_gz
from dear.errors import ConfigError, DataError, MissingExtra, nearest
from dear.records import Judgements, Passage, Query, Ranking

logger = logging.getLogger(__name__)

Grades = dict[str, dict[str, int]]
SPLIT_ORDER = ("train", "dev", "test")


class Collection:
    """What is searched, what is asked, and what is known about the answers.

    Nothing is read before it is asked for; corpus, queries and judgements are kept once read,
    runs are not. A collection without judgements, or without queries, is one too.
    """

    def __init__(
        self,
        name: str,
        *,
        corpus: Callable[[], Mapping[str, Passage]],
        queries: Callable[[], Mapping[str, Query]],
        qrels: Mapping[str, Callable[[], Grades]] | None = None,
        runs: Mapping[str, Mapping[str, Path]] | None = None,
        query_ids_by_split: Mapping[str, Iterable[str]] | None = None,
        folder: Path | None = None,
    ) -> None:
        """corpus, queries, qrels (by split): called once, when first asked for.

        runs: split → name of the run → file.  query_ids_by_split: the queries of splits that may
        have no judgements.
        """
        self.name, self.folder = name, folder
        self._read_corpus, self._read_queries = corpus, queries
        self._qrels, self._runs = dict(qrels or {}), dict(runs or {})
        self._query_ids = {split: tuple(ids) for split, ids in (query_ids_by_split or {}).items()}
        self._judgements: dict[str, Grades] = {}
        self._run_query_ids: dict[str, tuple[str, ...]] = {}

    @classmethod
    def from_parts(
        cls,
        name: str,
        corpus: Mapping[str, Passage],
        queries: Mapping[str, Query],
        judgements_by_split: Mapping[str, Judgements],
        query_ids_by_split: Mapping[str, Iterable[str]] | None = None,
    ) -> Collection:
        """A collection of what is in memory already."""
        qrels = {
            split: partial(_copied, judgements) for split, judgements in judgements_by_split.items()
        }
        return cls(
            name,
            corpus=lambda: corpus,
            queries=lambda: queries,
            qrels=qrels,
            query_ids_by_split=query_ids_by_split,
        )

    @classmethod
    def from_folder(cls, folder: Path | str, name: str | None = None) -> Collection:
        """The collection in a folder; every file may be .gz.

        corpus.jsonl, corpus.tsv, corpus.txt or a folder corpus/ of .txt and .md files;
        queries.jsonl, queries.tsv or queries.txt; qrels/SPLIT.tsv; runs/NAME.SPLIT.trec.
        Of several, the first in this order. DataError: no such folder, no corpus in it.
        """
        root = Path(folder)
        if not root.is_dir():
            raise DataError.at(root, None, "no such folder")
        corpus = _corpus_reader(root)
        if corpus is None:
            looked_for = "corpus.jsonl, corpus.tsv, corpus.txt or a folder corpus/ of .txt files"
            raise DataError.at(root, None, f"holds no corpus: expected {looked_for}")
        files = beir_files(root)
        return cls(
            name or root.resolve().name,
            folder=root,
            corpus=corpus,
            queries=partial(_folder_queries, root),
            qrels={split: partial(read_qrels, path) for split, path in files.qrels.items()},
            runs=files.runs,
        )

    def __repr__(self) -> str:
        return f"Collection({self.name!r}, splits={self.splits})"

    @cached_property
    def corpus(self) -> Mapping[str, Passage]:
        """Passage id → passage."""
        return self._read_corpus()

    @cached_property
    def _all_queries(self) -> dict[str, Query]:
        return dict(self._read_queries())

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that have judgements, queries or runs of their own; train, dev, test first."""
        names = {*self._qrels, *self._query_ids, *self._runs}
        return tuple(sorted(names, key=lambda s: (s not in SPLIT_ORDER, _place(s), s)))

    def queries(self, split: str | None = None) -> dict[str, Query]:
        """Query id → query: all of them, or those of a split.

        A split's queries are those in its judgements; where there are none, those named for it,
        else those in its runs. A collection with no split at all gives all queries for any.
        Judged queries without a text are left out, with a warning in the log.
        DataError: no such split (a wrong name must not mean all queries), or no query file.
        """
        if split is None or not self.splits:
            return dict(self._all_queries)
        ids = self._split_query_ids(split)
        found = {i: self._all_queries[i] for i in ids if i in self._all_queries}
        if not found:
            raise DataError(f"{self.name}: no query of split {split!r} has a text")
        if len(found) < len(ids):
            missing = next(i for i in ids if i not in found)
            logger.warning(
                "%s: %d of %d queries of split %s have no text, such as %s",
                *(self.name, len(ids) - len(found), len(ids), split, missing),
            )
        return found

    def _split_query_ids(self, split: str) -> tuple[str, ...]:
        if split in self._qrels:
            return tuple(self.judgements(split))
        if split in self._query_ids:
            return self._query_ids[split]
        if split not in self._run_query_ids:
            if split not in self._runs:
                raise self._no_split(split, self.splits, "split")
            ids = (i for path in self._runs[split].values() for i in read_run(path))
            self._run_query_ids[split] = tuple(dict.fromkeys(ids))
        return self._run_query_ids[split]

    def has_judgements(self, split: str) -> bool:
        """Whether `judgements(split)` works."""
        return split in self._qrels

    def judgements(self, split: str) -> Grades:
        """Query id → passage id → grade. DataError lists the splits that have judgements."""
        if split not in self._qrels:
            raise self._no_split(split, self._qrels, "judgements for split")
        if split not in self._judgements:
            self._judgements[split] = self._qrels[split]()
        return self._judgements[split]

    def runs(self, split: str) -> dict[str, Path]:
        """Name of the run → file; empty where the split has none."""
        return dict(self._runs.get(split, {}))

    def run(self, name: str, split: str) -> dict[str, Ranking]:
        """A stored run, read anew each time. DataError names the runs that there are."""
        runs = self.runs(split)
        if name not in runs:
            hint = nearest(name, runs) or "; it has none"
            raise DataError(f"{self.name}: no run {name!r} for split {split!r}{hint}")
        return read_run(runs[name])

    def _no_split(self, split: str, known: Iterable[str], what: str) -> DataError:
        names = ", ".join(s for s in self.splits if s in set(known)) or "none"
        return DataError(f"{self.name}: no {what} {split!r}; there are: {names}")


def _place(split: str) -> int:
    return SPLIT_ORDER.index(split) if split in SPLIT_ORDER else 0


def _copied(judgements: Judgements) -> Grades:
    return {query: dict(grades) for query, grades in judgements.items()}


def _corpus_reader(root: Path) -> Callable[[], dict[str, Passage]] | None:
    for ending, read in (
        ("jsonl", read_corpus),
        ("tsv", read_corpus_tsv),
        ("txt", read_corpus_txt),
    ):
        if path := plain_or_gz(root / f"corpus.{ending}"):
            return partial(read, path)
    documents = root / "corpus"
    return partial(read_document_folder, documents) if documents.is_dir() else None


def _folder_queries(root: Path) -> dict[str, Query]:
    for ending, read in (
        ("jsonl", read_queries),
        ("tsv", read_queries_tsv),
        ("txt", read_queries_txt),
    ):
        if path := plain_or_gz(root / f"queries.{ending}"):
            return read(path)
    wanted = "queries.jsonl, queries.tsv or queries.txt"
    raise DataError.at(root, None, f"holds no queries: expected {wanted}")


@dataclass(frozen=True, kw_only=True, slots=True)
class CollectionEntry:
    """A collection known by name.

    opener: `folder`, looked for as NAME in the data folders, or `pydocs`, made on the spot.
    """

    name: str
    description: str
    licence: str
    opener: Literal["folder", "pydocs"] = "folder"


_MS_MARCO = "MS MARCO terms: non-commercial research"
_ENTRIES = (
    CollectionEntry(
        name="pydocs",
        description="find a standard library function's code by its docstring; always there",
        licence="that of your Python (PSF-2.0)",
        opener="pydocs",
    ),
    CollectionEntry(
        name="scifact",
        description="scientific claims → abstracts (BEIR); train and test",
        licence="claims CC BY 4.0, abstracts ODC-By 1.0",
    ),
    CollectionEntry(
        name="nfcorpus",
        description="nutrition questions → medical abstracts, graded (BEIR); train, dev and test",
        licence="academic use only",
    ),
    CollectionEntry(
        name="dl19",
        description="TREC Deep Learning 2019 web passages, graded; candidates only, test",
        licence=_MS_MARCO,
    ),
    CollectionEntry(
        name="dl21",
        description="TREC Deep Learning 2021 web passages, graded; candidates only, test",
        licence=_MS_MARCO,
    ),
    CollectionEntry(
        name="dl22",
        description="TREC Deep Learning 2022 web passages, not judged; candidates only, test",
        licence=_MS_MARCO,
    ),
    CollectionEntry(
        name="noveleval",
        description="questions about news of 2023, 20 graded candidates each; test",
        licence="Apache 2.0",
    ),
    CollectionEntry(
        name="cranfield",
        description="aerodynamics questions → abstracts, graded; test",
        licence="none stated",
    ),
    CollectionEntry(
        name="cacm",
        description="computer science questions → CACM titles and abstracts; test",
        licence="none stated",
    ),
    CollectionEntry(
        name="vaswani",
        description="physics and electronics questions → abstracts (NPL); test",
        licence="none stated",
    ),
    CollectionEntry(
        name="insuranceqa",
        description="insurance questions → answers; train, dev and test",
        licence="research purpose only",
    ),
    CollectionEntry(
        name="medquad",
        description="medical questions → NIH answers; train, dev and test",
        licence="CC BY 4.0",
    ),
)
COLLECTIONS: dict[str, CollectionEntry] = {entry.name: entry for entry in _ENTRIES}


@dataclass(frozen=True, kw_only=True, slots=True)
class ListedCollection:
    """An entry, and where it is on this machine; folder: None where absent or made on the spot."""

    entry: CollectionEntry
    present: bool
    folder: Path | None


def data_folders() -> tuple[Path, ...]:
    """Where named collections are looked for: DEAR_DATA (separated as PATH is), then ./data."""
    named = os.environ.get("DEAR_DATA", "").split(os.pathsep)
    return (*(Path(folder).expanduser() for folder in named if folder), Path("data"))


def list_collections() -> list[ListedCollection]:
    """Every registered collection, in the table's order."""
    listed = []
    for entry in COLLECTIONS.values():
        folder = _folder_of(entry.name) if entry.opener == "folder" else None
        present = entry.opener != "folder" or folder is not None
        listed.append(ListedCollection(entry=entry, present=present, folder=folder))
    return listed


def open_collection(spec: str | Path) -> Collection:
    """A collection by folder, by name, or from another library's catalogue.

    spec: a folder (`Collection.from_folder`); a name in COLLECTIONS; `irds:ID`, or an ID with a
    slash in it, for ir_datasets; `hf:OWNER/NAME` or `hf:FOLDER` for a Hugging Face data set in
    BEIR layout. A folder that holds a corpus goes before a registered name.
    ConfigError: neither a folder nor a name; names the nearest known one. MissingExtra: the
    library of `irds:` or `hf:` is not installed.
    """
    text = str(spec)
    folder = Path(spec).expanduser()
    if text.startswith("irds:"):
        return _open_irds(text.removeprefix("irds:"))
    if text.startswith("hf:"):
        return _open_hub(text.removeprefix("hf:"))
    if folder.is_dir() and (_corpus_reader(folder) or text not in COLLECTIONS):
        return Collection.from_folder(folder)
    if entry := COLLECTIONS.get(text):
        return _open_entry(entry)
    if folder.exists():
        raise ConfigError(f"{text} is a file; a collection is a folder with a corpus in it")
    if isinstance(spec, str) and "/" in text and not text.startswith((".", "/", "~")):
        return _open_slashed(text)
    raise ConfigError(f"no collection and no folder {text!r}{nearest(text, COLLECTIONS)}")


def _open_entry(entry: CollectionEntry) -> Collection:
    if entry.opener == "pydocs":
        from dear.data.pydocs import open_pydocs

        return open_pydocs()
    folder = _folder_of(entry.name)
    if folder is None:
        looked = ", ".join(str(folder / entry.name) for folder in data_folders())
        raise ConfigError(
            f"collection {entry.name!r} is not on this machine: looked for {looked}; "
            "set DEAR_DATA to the folder that holds it"
        )
    return Collection.from_folder(folder, entry.name)


def _folder_of(name: str) -> Path | None:
    places = (folder / name for folder in data_folders())
    return next((place for place in places if place.is_dir() and _corpus_reader(place)), None)


def _open_slashed(text: str) -> Collection:
    # a mistyped path looks like an ir_datasets id: both readings go into the message
    try:
        return _open_irds(text)
    except MissingExtra as error:
        raise MissingExtra(
            f"no folder {text!r}; to take it as an ir_datasets id: {error}"
        ) from error
    except ConfigError as error:
        raise ConfigError(f"no folder {text!r}, and {error}{nearest(text, COLLECTIONS)}") from error


def _open_irds(dataset_id: str) -> Collection:
    from dear.data.irds import open_irds

    return open_irds(dataset_id)


def _open_hub(name: str) -> Collection:
    from dear.data.hub import open_hub

    return open_hub(name)
