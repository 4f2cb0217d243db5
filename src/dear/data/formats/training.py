"""The record of training files: a query, what answers it, and what does not."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from dear.data.formats.rows import Row
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
