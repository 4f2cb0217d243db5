"""Training rows: FlagEmbedding's JSONL and the record that all such formats are read into."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dear.data.formats.beir import check_query
from dear.data.formats.lines import Source, write_lines
from dear.data.formats.rows import Row, json_line, json_rows
from dear.errors import DataError
from dear.records import Passage, Query


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingRow:
    """One query with positives and negatives, texts included.

    positive_scores, negative_scores: a teacher's raw logits, one finite float for each passage,
    or None where the file has none. DataError: a length that differs, a passage twice.
    """

    query: Query
    positives: tuple[Passage, ...]
    negatives: tuple[Passage, ...]
    positive_scores: tuple[float, ...] | None = None
    negative_scores: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        _check_scores(self.query.id, self.positives, self.positive_scores)
        _check_scores(self.query.id, self.negatives, self.negative_scores)
        _check_twice(self.query.id, [p.id for p in (*self.positives, *self.negatives)])


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingIds:
    """The same by passage id, to be looked up in a corpus (`resolve`)."""

    query: Query
    positive_ids: tuple[str, ...]
    negative_ids: tuple[str, ...]

    def __post_init__(self) -> None:
        _check_twice(self.query.id, [*self.positive_ids, *self.negative_ids])


def _check_scores(
    query_id: str, passages: tuple[Passage, ...], scores: tuple[float, ...] | None
) -> None:
    if scores is not None and len(scores) != len(passages):
        raise DataError(f"query {query_id!r}: {len(passages)} passages, {len(scores)} scores")


def _check_twice(query_id: str, ids: list[str]) -> None:
    if len(set(ids)) != len(ids):
        seen: set[str] = set()
        twice = next(i for i in ids if i in seen or seen.add(i))  # type: ignore[func-returns-value]
        raise DataError(
            f"query {query_id!r}: passage {twice!r} appears twice among positives and negatives"
        )


def resolve(rows: Iterable[TrainingIds], corpus: Mapping[str, Passage]) -> Iterator[TrainingRow]:
    """Rows by id → rows with texts. DataError names the passage that the corpus lacks."""

    def passage(query: Query, passage_id: str) -> Passage:
        found = corpus.get(passage_id)
        if found is None:
            raise DataError(f"query {query.id!r}: passage {passage_id!r} is not in the corpus")
        return found

    for row in rows:
        yield TrainingRow(
            query=row.query,
            positives=tuple(passage(row.query, p) for p in row.positive_ids),
            negatives=tuple(passage(row.query, p) for p in row.negative_ids),
        )


def text_id(text: str, title: str = "") -> str:
    """The id of a passage that came without one: the same for the same title and text.

    `text-` and 16 hexadecimal digits (64 bits of BLAKE2b).
    """
    digest = hashlib.blake2b(f"{title}\n{text}".encode(), digest_size=8)
    return f"text-{digest.hexdigest()}"


class QueryTexts:
    """Remembers query ids, so that one id with two texts in a file is noticed.

    One query on several lines is common (a line for each positive), and no fault.
    """

    def __init__(self) -> None:
        self._hashes: dict[str, int] = {}

    def check(self, query: Query, row: Row) -> Query:
        """`query`; DataError if the id stood with another text before."""
        if self._hashes.setdefault(query.id, hash(query.text)) != hash(query.text):
            raise row.error(f"query id {query.id!r} appeared before with another text")
        return query


def in_place(row: Row, problem: DataError) -> DataError:
    """A record's own complaint, with the file and line put in front."""
    return row.error(str(problem))


def require_positive(path: Path | str, row: TrainingRow | TrainingIds) -> None:
    """DataError for a row that teaches nothing."""
    positives = row.positives if isinstance(row, TrainingRow) else row.positive_ids
    if not positives:
        raise DataError.at(path, None, f"query {row.query.id!r} has no positive passage")


def read_flag(path: Source) -> Iterator[TrainingRow]:
    """`{"query", "pos": [], "neg": [], "pos_scores": [], "neg_scores": [], "prompt"}` rows.

    The query's id is its place among the rows, from 1; a passage's is `text_id`. Score lists may
    be missing or empty. `prompt`, an instruction for embedding models, is not kept.
    DataError: no `pos`, lists of different lengths, the same text twice in a row.
    """
    for place, row in enumerate(json_rows(path), 1):
        yield flag_record(row, str(place))


def flag_record(row: Row, query_id: str | None = None) -> TrainingRow:
    """One such row. query_id: without one, `text_id` of the query. Errors as `read_flag`."""
    positives, negatives = _texts(row, "pos"), _texts(row, "neg", default=())
    if not positives:
        raise row.error("'pos' is empty")
    text = row.filled("query")
    scores = [
        row.numbers(name, len(side)) if row.fields.get(name) else None
        for name, side in (("pos_scores", positives), ("neg_scores", negatives))
    ]
    try:
        return TrainingRow(
            query=Query(id=query_id or text_id(text), text=text),
            positives=positives,
            negatives=negatives,
            positive_scores=scores[0],
            negative_scores=scores[1],
        )
    except DataError as problem:
        raise in_place(row, problem) from problem


def _texts(
    row: Row, name: str, *, default: tuple[object, ...] | None = None
) -> tuple[Passage, ...]:
    passages: list[Passage] = []
    for i, value in enumerate(row.items(name, default=default)):
        text = row.child({name: value}, f"{name}[{i}]").text(name)
        passages.append(Passage(id=text_id(text), text=text))
    return tuple(passages)


def write_flag(path: Path | str, rows: Iterable[TrainingRow]) -> None:
    """The same rows, atomically. Ids are lost, and a title goes in front of its text."""
    write_lines(path, (json_line(_fields(path, row)) for row in rows))


def _fields(path: Path | str, row: TrainingRow) -> dict[str, Any]:
    check_query(path, row.query)
    require_positive(path, row)
    fields: dict[str, Any] = {
        "query": row.query.text,
        "pos": [passage.full_text for passage in row.positives],
        "neg": [passage.full_text for passage in row.negatives],
    }
    if row.positive_scores:
        fields["pos_scores"] = row.positive_scores
    if row.negative_scores:
        fields["neg_scores"] = row.negative_scores
    return fields
