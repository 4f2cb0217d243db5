"""ir_datasets ids as collections, through the optional extra `irds`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from dear.errors import ConfigError, DataError, MissingExtra
from dear.records import Passage, Query

if TYPE_CHECKING:
    from dear.data.collections import Collection

_TEXTS = ("text", "body", "abstract", "contents", "passage", "segment")
_QUERY_TEXTS = ("text", "query", "title", "description")
_DEV = {"dev", "valid", "validation", "val"}


def open_irds(dataset_id: str) -> Collection:
    """The collection of that id, with its judgements as one split (`split_of`).

    Documents stay on disk and are looked up one by one; queries and judgements are read when
    asked for. MissingExtra: ir-datasets is not installed. ConfigError: no such id, or no documents.
    """
    from dear.data.collections import Collection

    dataset = load(dataset_id)
    if not dataset.has_docs():
        raise ConfigError(f"ir_datasets: {dataset_id!r} has no documents")
    qrels = {split_of(dataset_id): lambda: judgements(dataset)} if dataset.has_qrels() else {}
    return Collection(
        dataset_id,
        corpus=lambda: IrdsCorpus(dataset),
        queries=lambda: queries(dataset),
        qrels=qrels,
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


class IrdsCorpus(Mapping[str, Passage]):
    """The documents by id, looked up on disk: MS MARCO does not fit into memory as objects."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset

    def __getitem__(self, passage_id: str) -> Passage:
        return _passage(self._dataset.docs_store().get(passage_id))

    def __iter__(self) -> Iterator[str]:
        return (str(doc.doc_id) for doc in self._dataset.docs_iter())

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
        raise DataError(f"ir_datasets: {dataset.dataset_id()!r} has no queries")
    found = {}
    for record in dataset.queries_iter():
        query = Query(id=str(record.query_id), text=_text(record, _QUERY_TEXTS))
        if not query.text.strip():
            raise DataError(f"ir_datasets: query {query.id!r} has no text")
        found[query.id] = query
    return found


def judgements(dataset: Any) -> dict[str, dict[str, int]]:
    """Query id → passage id → grade. Of a pair judged twice (sub-topics), the higher grade."""
    grades: dict[str, dict[str, int]] = {}
    for record in dataset.qrels_iter():
        of_query = grades.setdefault(str(record.query_id), {})
        passage, grade = str(record.doc_id), int(record.relevance)
        of_query[passage] = max(grade, of_query.get(passage, grade))
    return grades
