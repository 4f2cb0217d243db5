"""FlagEmbedding's training rows: texts without ids."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from dear.data.formats.beir import check_query
from dear.data.formats.lines import Source, write_lines
from dear.data.formats.rows import Row, json_line, json_rows
from dear.data.formats.training import TrainingRow, in_place, require_positive, text_id
from dear.errors import DataError
from dear.records import Passage, Query


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
