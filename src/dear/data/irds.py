"""ir_datasets ids as collections, through the optional extra `irds`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from dear.data.collection import Collection
from dear.errors import ConfigError, DataError, DearError, MissingExtra, excerpt
from dear.records import Passage, Query

if TYPE_CHECKING:
    from dear.data.catalogue import CollectionEntry

_TEXTS = ("text", "body", "abstract", "contents", "passage", "segment")
_QUERY_TEXTS = ("text", "query", "title", "description")
_HOST = re.compile(r"host=\W*([\w.-]+)")  # as requests names whom it did not reach
_DEV = {"dev", "valid", "validation", "val"}


def open_irds(dataset_id: str, *, entry: CollectionEntry | None = None) -> Collection:
    """The collection of that id, with its judgements as one split (`split_of`).

    Documents stay on disk and are looked up one by one; queries and judgements are read when
    asked for. MissingExtra: ir-datasets is not installed. ConfigError: no such id, or no documents.
    """
    return _open(dataset_id, {split_of(dataset_id): dataset_id}, entry)


def open_irds_splits(entry: CollectionEntry) -> Collection:
    """A collection of the catalogue, all its splits in one, over the same documents."""
    return _open(entry.name, entry.irds, entry)


def _open(name: str, ids: Mapping[str, str], entry: CollectionEntry | None) -> Collection:
    """ids: split → id, one at least."""

    by_split = {split: load(dataset_id) for split, dataset_id in ids.items()}
    first = next(iter(by_split.values()))
    if not first.has_docs():
        raise ConfigError(f"ir_datasets: {_id_of(first)!r} has no documents")

    def all_queries() -> dict[str, Query]:
        return {q: query for one in by_split.values() for q, query in queries(one).items()}

    def all_answers() -> dict[str, tuple[str, ...]]:
        return {q: found for one in by_split.values() for q, found in answers(one).items()}

    return Collection(
        name,
        corpus=lambda: IrdsCorpus(first),
        queries=all_queries,
        qrels={s: partial(judgements, one) for s, one in by_split.items() if one.has_qrels()},
        answers=all_answers if _has_answers(first) else None,
        entry=entry,
        pinned=f"irds:{ids[next(iter(ids))]}",
    )


def load(dataset_id: str) -> Any:
    """The data set of that id. MissingExtra: ir-datasets is not there. ConfigError: no such id."""
    try:
        import ir_datasets
    except ImportError as error:
        raise MissingExtra.of("ir-datasets", "irds") from error
    try:
        return ir_datasets.load(dataset_id)
    except KeyError as error:
        raise ConfigError(f"ir_datasets knows no data set {dataset_id!r}") from error


def split_of(dataset_id: str) -> str:
    """train, dev or test: which split the judgements of an id are.

    The last part of the id says it (`beir/scifact/train`, `beir/fever/dev`); a name of another
    kind (`msmarco-passage/trec-dl-2019/judged`) is for testing.
    """
    parts = set(dataset_id.split("/")[1:])
    if parts & _DEV:
        return "dev"
    return "train" if "train" in parts else "test"


@contextmanager
def reading(dataset: Any) -> Iterator[None]:
    """Whatever ir_datasets meets while it downloads or reads, as one DataError."""
    try:
        yield
    except DearError:
        raise
    except FileNotFoundError as error:  # discs that somebody has to buy first
        missing = error.filename or error
        raise DataError(f"ir_datasets: {_id_of(dataset)!r} needs {missing}") from error
    except (OSError, RuntimeError, ValueError, EOFError) as error:
        problem = " ".join(str(error).split())
        host = _HOST.search(problem)
        if host is not None:
            raise DataError(
                f"ir_datasets: {_id_of(dataset)!r} is not downloaded, and there is no way to "
                f"{host[1]}; a folder of the same layout does as well"
            ) from error
        raise DataError(
            f"ir_datasets: {_id_of(dataset)!r} cannot be read: "
            f"{type(error).__name__}: {excerpt(problem, 160)}"
        ) from error


def _id_of(dataset: Any) -> str:
    # one that somebody made in this process has none
    return str(getattr(dataset, "dataset_id", lambda: "a data set without an id")())


class IrdsCorpus(Mapping[str, Passage]):
    """The documents by id, looked up on disk: MS MARCO does not fit into memory as objects."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset

    def __getitem__(self, passage_id: str) -> Passage:
        with reading(self._dataset):
            return _passage(self._dataset.docs_store().get(passage_id))

    def __iter__(self) -> Iterator[str]:
        with reading(self._dataset):
            for doc in self._dataset.docs_iter():
                yield str(doc.doc_id)

    def __len__(self) -> int:
        count = self._dataset.docs_count()
        return sum(1 for _ in self) if count is None else int(count)


def _passage(doc: Any) -> Passage:
    return Passage(
        id=str(doc.doc_id), title=str(getattr(doc, "title", "") or ""), text=_text(doc, _TEXTS)
    )


def _text(record: Any, names: tuple[str, ...]) -> str:
    for name in names:
        if isinstance(value := getattr(record, name, None), str):
            return value
    return str(record.default_text())


def queries(dataset: Any) -> dict[str, Query]:
    """Query id → query. DataError: a query without text, or no queries at all."""
    if not dataset.has_queries():
        raise DataError(f"ir_datasets: {_id_of(dataset)!r} has no queries")
    found = {}
    with reading(dataset):
        for record in dataset.queries_iter():
            query = Query(id=str(record.query_id), text=_text(record, _QUERY_TEXTS))
            if not query.text.strip():
                raise DataError(f"ir_datasets: query {query.id!r} has no text")
            found[query.id] = query
    return found


def answers(dataset: Any) -> dict[str, tuple[str, ...]]:
    """Query id → the strings that answer it; questions without one are left out."""
    with reading(dataset):
        return {
            str(record.query_id): tuple(map(str, record.answers))
            for record in dataset.queries_iter()
            if record.answers
        }


def _has_answers(dataset: Any) -> bool:
    return dataset.has_queries() and "answers" in getattr(dataset.queries_cls(), "_fields", ())


def judgements(dataset: Any) -> dict[str, dict[str, int]]:
    """Query id → passage id → grade. Of a pair judged twice (sub-topics), the higher grade."""
    grades: dict[str, dict[str, int]] = {}
    with reading(dataset):
        for record in dataset.qrels_iter():
            of_query = grades.setdefault(str(record.query_id), {})
            passage, grade = str(record.doc_id), int(record.relevance)
            of_query[passage] = max(grade, of_query.get(passage, grade))
    return grades
