"""A collection: corpus, queries, judgements and runs, read when they are asked for."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import cached_property, partial
from pathlib import Path
from typing import TypeAlias

from dear.data.catalogue import DEFAULT_GRADE, DEFAULT_MEASURE, CollectionEntry
from dear.data.documents import Documents
from dear.data.folders import (
    answers_reader,
    corpus_files,
    corpus_reader,
    documents_reader,
    folder_queries,
)
from dear.data.formats import beir_files, read_qrels, read_run
from dear.data.judged import check_judged
from dear.errors import DataError, nearest
from dear.records import Judgements, Passage, Query, Ranking

logger = logging.getLogger(__name__)

Grades = dict[str, dict[str, int]]
Answers: TypeAlias = Mapping[str, tuple[str, ...]]
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
        answers: Callable[[], Answers] | None = None,
        made_runs: Mapping[str, Callable[[str], dict[str, Ranking]]] | None = None,
        folder: Path | None = None,
        entry: CollectionEntry | None = None,
        corpus_files: Callable[[], Sequence[Path]] | None = None,
        documents: Callable[[], Documents] | None = None,
        pinned: str = "",
    ) -> None:
        """corpus, queries, qrels (by split), answers: called once, when first asked for.

        runs: split → name of the run → file.  query_ids_by_split: the queries of splits that may
        have no judgements.  answers: query id → what a passage must hold to answer it.
        made_runs: name → the run of a split, where it is no file.
        entry: what the catalogue knows about it.
        corpus_files: all that the corpus is read from, where that is files.
        documents: passage id → document id, where the judgements are of documents.
        pinned: names a published corpus that never changes.
        """
        self.pinned = pinned
        self._corpus_files, self._read_documents = corpus_files, documents
        self.name, self.folder, self.entry = name, folder, entry
        self._read_corpus, self._read_queries = corpus, queries
        self._qrels, self._runs = dict(qrels or {}), dict(runs or {})
        self._query_ids = {split: tuple(ids) for split, ids in (query_ids_by_split or {}).items()}
        self._read_answers = answers
        self._made_runs = dict(made_runs or {})
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
    def from_folder(
        cls, folder: Path | str, name: str | None = None, *, entry: CollectionEntry | None = None
    ) -> Collection:
        """The collection in a folder; every file may be .gz.

        corpus.jsonl, corpus.tsv, corpus.txt or a folder corpus/ of .txt and .md files;
        queries.jsonl, queries.tsv or queries.txt; qrels/SPLIT.tsv; runs/NAME.SPLIT.trec;
        answers.jsonl; passages.tsv where the corpus is passages of documents.
        Of several, the first in this order. DataError: no such folder, no corpus in it.
        """
        root = Path(folder)
        if not root.is_dir():
            raise DataError.at(root, None, "no such folder")
        corpus = corpus_reader(root)
        if corpus is None:
            looked_for = "corpus.jsonl, corpus.tsv, corpus.txt or a folder corpus/ of .txt files"
            raise DataError.at(root, None, f"holds no corpus: expected {looked_for}")
        files = beir_files(root)
        return cls(
            name or root.resolve().name,
            folder=root,
            corpus=corpus,
            queries=partial(folder_queries, root),
            qrels={split: partial(read_qrels, path) for split, path in files.qrels.items()},
            runs=files.runs,
            answers=answers_reader(root),
            entry=entry,
            corpus_files=partial(corpus_files, root),
            documents=documents_reader(root),
        )

    def __repr__(self) -> str:
        return f"Collection({self.name!r}, splits={self.splits})"

    @cached_property
    def corpus(self) -> Mapping[str, Passage]:
        """Passage id → passage. DataError where all that is judged relevant in a split that was
        read is missing in it; `judgements` raises it where they are read second."""
        corpus = self._read_corpus()
        for split in self._judgements:
            self._check_judged(split, corpus)
        return corpus

    @property
    def corpus_files(self) -> Sequence[Path]:
        """All that the corpus is read from; empty where it is no files."""
        return () if self._corpus_files is None else self._corpus_files()

    @cached_property
    def documents(self) -> Documents | None:
        """Passage id → the document that it is a passage of; None where passages are judged
        themselves."""
        return None if self._read_documents is None else self._read_documents()

    @cached_property
    def _all_queries(self) -> dict[str, Query]:
        return dict(self._read_queries())

    @property
    def min_grade(self) -> int:
        """The lowest grade that counts in binary measures, as the collection's makers have it."""
        return DEFAULT_GRADE if self.entry is None else self.entry.min_grade

    @property
    def main_measure(self) -> str:
        """By which the collection is reported; `answer@1` is dear.evaluate.answers' own."""
        return DEFAULT_MEASURE if self.entry is None else self.entry.main_measure

    @property
    def has_answers(self) -> bool:
        """Whether `answers` works."""
        return self._read_answers is not None

    @cached_property
    def answers(self) -> Answers:
        """Query id → the strings that answer it. DataError where the collection has none."""
        if self._read_answers is None:
            raise DataError(f"{self.name}: has no answers (answers.jsonl) to match passages with")
        return self._read_answers()

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
            if "corpus" in self.__dict__:
                self._check_judged(split, self.corpus)
        return self._judgements[split]

    def _check_judged(self, split: str, corpus: Mapping[str, Passage]) -> None:
        if self.pinned:  # published with its judgements, and looked up on disk
            return
        ids: AbstractSet[str] = corpus.keys()
        if self.documents is not None:
            ids = ids | set(self.documents.values())
        part = self.entry is not None and len(corpus) < (self.entry.documents or 0)
        check_judged(f"{self.name}, {split}", self._judgements[split], ids, whole=not part)

    def runs(self, split: str) -> dict[str, Path]:
        """Name of the run → file; empty where the split has none."""
        return dict(self._runs.get(split, {}))

    def makes_run(self, name: str) -> bool:
        """Whether `run` gives this one although it is no file."""
        return name in self._made_runs

    def run(self, name: str, split: str) -> dict[str, Ranking]:
        """A stored run, read anew each time. DataError names the runs that there are."""
        if name in self._made_runs:
            return self._made_runs[name](split)
        runs = self.runs(split)
        if name not in runs:
            hint = nearest(name, runs) or "; it has none"
            if "/" in name:
                hint = f", and no such file{hint}"
            raise DataError(f"{self.name}: no run {name!r} for split {split!r}{hint}")
        return read_run(runs[name])

    def _no_split(self, split: str, known: Iterable[str], what: str) -> DataError:
        names = ", ".join(s for s in self.splits if s in set(known)) or "none"
        return DataError(f"{self.name}: no {what} {split!r}; there are: {names}")


def _place(split: str) -> int:
    return SPLIT_ORDER.index(split) if split in SPLIT_ORDER else 0


def _copied(judgements: Judgements) -> Grades:
    return {query: dict(grades) for query, grades in judgements.items()}
