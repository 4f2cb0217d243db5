"""Tevatron's training rows (three layouts), corpus, and rerank input."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from dear.data.formats.beir import (
    PASSAGE_ID,
    check_query,
    iter_corpus,
    passage_of,
)
from dear.data.formats.candidates import by_rank, scores_of
from dear.data.formats.lines import Source, check_id, once, write_lines
from dear.data.formats.rows import Row, json_line, json_rows
from dear.data.formats.training import (
    QueryTexts,
    TrainingIds,
    TrainingRow,
    flag_record,
    in_place,
    require_positive,
    text_id,
)
from dear.errors import DataError
from dear.records import Candidates, Passage, Query

_QUERY_TEXT = ("query", "query_text", "text")


def read_tevatron(path: Source) -> Iterator[TrainingRow]:
    """Training rows with texts, old layout or newer, told apart row by row.

    Old: `positive_passages`, `negative_passages` of `{"docid", "title", "text", "score"?}`.
    Newer: `passages` of `{"title", "text"}`, the first one positive, and `scores`, raw logits.
    A passage without `docid` gets the id of its text (`text_id`). In the old layout all passages
    of a side have a score, or none has.
    """
    texts = QueryTexts()
    for row in json_rows(path):
        found = training_record(row)
        texts.check(found.query, row)
        if isinstance(found, TrainingIds):
            raise row.error("rows by id: read them with read_tevatron_ids and a corpus")
        yield found


def training_record(row: Row) -> TrainingRow | TrainingIds:
    """One row of any of the three layouts, or of FlagEmbedding's, told apart by its keys; errors
    name its place."""
    if row.find("pos") and not row.find("positive_passages", "passages"):
        return flag_record(row)
    query = _query(row)
    if row.find("positive_document_ids"):
        build: Callable[[Row, Query], TrainingRow | TrainingIds] = _by_id
    elif row.find("passages") and not row.find("positive_passages"):
        build = _newer
    else:
        build = _old
    try:
        return build(row, query)
    except DataError as problem:
        if str(problem).startswith(f"{row.source}:"):
            raise
        raise in_place(row, problem) from problem


def _query(row: Row) -> Query:
    return Query(id=row.id("query_id", "qid", "_id"), text=row.filled(*_QUERY_TEXT))


def _old(row: Row, query: Query) -> TrainingRow:
    positives = row.children("positive_passages")
    negatives = row.children("negative_passages", default=())
    if not positives:
        raise row.error("'positive_passages' is empty")
    return TrainingRow(
        query=query,
        positives=tuple(map(_passage, positives)),
        negatives=tuple(map(_passage, negatives)),
        positive_scores=scores_of(positives),
        negative_scores=scores_of(negatives),
    )


def _newer(row: Row, query: Query) -> TrainingRow:
    children = row.children("passages")
    if not children:
        raise row.error("'passages' is empty")
    passages = tuple(map(_passage, children))
    scores = row.numbers("scores", len(passages))
    return TrainingRow(
        query=query,
        positives=passages[:1],
        negatives=passages[1:],
        positive_scores=scores and scores[:1],
        negative_scores=scores and scores[1:],
    )


def _passage(row: Row) -> Passage:
    named = row.find(*PASSAGE_ID) is not None
    passage = passage_of(row, default_id="-")
    if named:
        return passage
    return Passage(id=text_id(passage.text, passage.title), text=passage.text, title=passage.title)


def write_tevatron(path: Path | str, rows: Iterable[TrainingRow]) -> None:
    """The old layout, `score` in each passage where the row has scores; atomically."""
    write_lines(path, (json_line(_old_fields(path, row)) for row in rows))


def _old_fields(path: Path | str, row: TrainingRow) -> dict[str, Any]:
    return _query_fields(path, row) | {
        "positive_passages": _passage_fields(path, row.positives, row.positive_scores),
        "negative_passages": _passage_fields(path, row.negatives, row.negative_scores),
    }


def _query_fields(path: Path | str, row: TrainingRow) -> dict[str, Any]:
    check_id(row.query.id, path, None, "query id")
    check_query(path, row.query)
    require_positive(path, row)
    return {"query_id": row.query.id, "query": row.query.text}


def _passage_fields(
    path: Path | str, passages: tuple[Passage, ...], scores: tuple[float, ...] | None
) -> list[dict[str, Any]]:
    fields: list[dict[str, Any]] = []
    for i, passage in enumerate(passages):
        check_id(passage.id, path, None, "passage id")
        one = {"docid": passage.id, "title": passage.title, "text": passage.text}
        fields.append(one if scores is None else one | {"score": scores[i]})
    return fields


def write_tevatron_scored(path: Path | str, rows: Iterable[TrainingRow]) -> None:
    """The newer layout: `passages`, the one positive first, and `scores` where there are any.

    DataError: another number of positives than one; scores on one side only.
    """
    write_lines(path, (json_line(_newer_fields(path, row)) for row in rows))


def _newer_fields(path: Path | str, row: TrainingRow) -> dict[str, Any]:
    if len(row.positives) != 1:
        problem = f"query {row.query.id!r}: this layout holds one positive, not"
        raise DataError.at(path, None, f"{problem} {len(row.positives)}")
    passages = (*row.positives, *row.negatives)
    fields = _query_fields(path, row) | {"passages": _passage_fields(path, passages, None)}
    sides = ((row.positives, row.positive_scores), (row.negatives, row.negative_scores))
    if any(scores is not None for _, scores in sides):
        if any(side and scores is None for side, scores in sides):
            raise DataError.at(path, None, f"query {row.query.id!r}: scores on one side only")
        fields["scores"] = [*(row.positive_scores or ()), *(row.negative_scores or ())]
    return fields


def read_tevatron_ids(path: Source) -> Iterator[TrainingIds]:
    """`{"query_id", "query", "positive_document_ids", "negative_document_ids"}` rows.

    `query_text` is understood as well. Texts come from a corpus: `resolve(rows, corpus)`.
    """
    texts = QueryTexts()
    for row in json_rows(path):
        query = texts.check(_query(row), row)
        try:
            yield _by_id(row, query)
        except DataError as problem:
            if str(problem).startswith(f"{row.source}:"):
                raise
            raise in_place(row, problem) from problem


def _by_id(row: Row, query: Query) -> TrainingIds:
    positives = _ids(row, "positive_document_ids")
    if not positives:
        raise row.error("'positive_document_ids' is empty")
    negatives = _ids(row, "negative_document_ids", default=())
    return TrainingIds(query=query, positive_ids=positives, negative_ids=negatives)


def _ids(row: Row, name: str, *, default: tuple[object, ...] | None = None) -> tuple[str, ...]:
    values = row.items(name, default=default)
    return tuple(row.child({name: v}, f"{name}[{i}]").id(name) for i, v in enumerate(values))


def write_tevatron_ids(path: Path | str, rows: Iterable[TrainingIds]) -> None:
    """Rows by id, atomically."""
    write_lines(path, (json_line(_id_fields(path, row)) for row in rows))


def _id_fields(path: Path | str, row: TrainingIds) -> dict[str, Any]:
    check_query(path, row.query)
    require_positive(path, row)
    for identifier in (row.query.id, *row.positive_ids, *row.negative_ids):
        check_id(identifier, path, None, "id")
    return {
        "query_id": row.query.id,
        "query": row.query.text,
        "positive_document_ids": row.positive_ids,
        "negative_document_ids": row.negative_ids,
    }


def read_tevatron_corpus(path: Source) -> dict[str, Passage]:
    """`{"docid", "document_text"}` rows (or `text`, with or without `title`) → id → passage."""
    return {passage.id: passage for passage in iter_corpus(path)}


def write_tevatron_corpus(path: Path | str, passages: Iterable[Passage]) -> None:
    """`{"docid", "document_text"}` rows, with `title` where there is one; atomically."""
    seen: set[str] = set()

    def lines() -> Iterator[str]:
        for line, passage in enumerate(passages, 1):
            check_id(passage.id, path, None, "passage id")
            once(seen, passage.id, path, line, "passage id")
            fields = {"docid": passage.id, "document_text": passage.text}
            yield json_line(fields | ({"title": passage.title} if passage.title else {}))

    write_lines(path, lines())


def read_tevatron_rerank(path: Source) -> Iterator[Candidates]:
    """Flat `{"query_id", "query", "docid", "title", "text"}` rows → one Candidates a query.

    Rows of a query stand together, best first. `score` is used where all rows of a query have
    one; else the scores are 1, 1/2, 1/3 … as the order says.
    DataError: a query that comes back after another one, one id with two texts, a passage twice.
    """
    seen: set[str] = set()
    group: list[Row] = []
    for row in json_rows(path):
        if group and _query(row).id != _query(group[0]).id:
            yield _group(group, seen)
            group = []
        group.append(row)
    yield _group(group, seen)


def _group(rows: list[Row], seen: set[str]) -> Candidates:
    query, ids = _query(rows[0]), set[str]()
    once(seen, query.id, rows[0].source, rows[0].line, "after another query, query id")
    for row in rows:
        if _query(row) != query:
            raise row.error(f"query id {query.id!r} appeared before with another text")
        once(ids, row.id(*PASSAGE_ID), row.source, row.line, f"query {query.id!r}: passage id")
    return Candidates(
        query=query,
        passages=tuple(_flat_passage(row) for row in rows),
        scores=scores_of(rows) or by_rank(len(rows)),
    )


def _flat_passage(row: Row) -> Passage:
    return Passage(
        id=row.id(*PASSAGE_ID),
        title=row.text("title", default=""),
        text=row.text("text", "document_text"),
    )


def write_tevatron_rerank(path: Path | str, candidates: Iterable[Candidates]) -> None:
    """Flat rows, with the first stage's `score` as a further key; atomically."""
    write_lines(path, map(json_line, _flat_fields(path, candidates)))


def _flat_fields(path: Path | str, candidates: Iterable[Candidates]) -> Iterator[Mapping[str, Any]]:
    for one in candidates:
        check_id(one.query.id, path, None, "query id")
        check_query(path, one.query)
        for passage, score in zip(one.passages, one.scores, strict=True):
            check_id(passage.id, path, None, "passage id")
            yield {
                "query_id": one.query.id,
                "query": one.query.text,
                "docid": passage.id,
                "title": passage.title,
                "text": passage.text,
                "score": score,
            }
