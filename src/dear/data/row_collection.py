"""Training rows as a collection with a run, so that a teacher can label their pairs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

from dear.data.collection import Collection, Grades
from dear.data.formats.tevatron import training_record
from dear.data.formats.training import QueryTexts, TrainingIds
from dear.data.passage_table import SMALL_BYTES, in_memory, in_table, open_passages
from dear.data.training_rows import RowSource, open_rows
from dear.errors import ConfigError, DataError
from dear.records import Passage, Query, Ranking

RUN = "rows"
"""The run's name: each query's positives, then its negatives, in the order of its rows."""


def open_row_collection(spec: str, tables: Path | None = None) -> Collection:
    """Rows as `dear.data.training_rows.open_rows` knows them, or `ROWS,CORPUS` for rows by id.

    Queries and judgements are those of split train, and the positives are relevant (grade 1). The
    passages have the ids that training gives them. Queries, judgements and the run are held in
    memory, by id; the texts of large files, or of the hub, are on disk.
    """
    where, _, corpus = spec.partition(",")
    rows = open_rows(where)

    @cache
    def read() -> tuple[dict[str, Query], Grades, dict[str, Ranking]]:
        return _read(rows)

    def run(split: str) -> dict[str, Ranking]:
        if split != "train":
            raise DataError(f"rows:{spec}: rows are split train, there is no {split!r}")
        return dict(read()[2])

    return Collection(
        rows.name,
        corpus=lambda: open_passages(corpus, tables) if corpus else _texts(rows, where, tables),
        queries=lambda: read()[0],
        qrels={"train": lambda: read()[1]},
        made_runs={RUN: run},
    )


def _read(rows: RowSource) -> tuple[dict[str, Query], Grades, dict[str, Ranking]]:
    texts = QueryTexts()
    queries: dict[str, Query] = {}
    grades: Grades = {}
    order: dict[str, dict[str, None]] = {}
    for row in rows.read():
        found = training_record(row)
        query = texts.check(found.query, row)
        if isinstance(found, TrainingIds):
            positives, negatives = found.positive_ids, found.negative_ids
        else:
            positives = tuple(p.id for p in found.positives)
            negatives = tuple(p.id for p in found.negatives)
        queries.setdefault(query.id, query)
        grades.setdefault(query.id, {}).update(dict.fromkeys(positives, 1))
        order.setdefault(query.id, {}).update(dict.fromkeys((*positives, *negatives)))
    run = {
        query_id: Ranking(
            query_id=query_id,
            passage_ids=tuple(ids),
            scores=tuple(float(s) for s in range(len(ids), 0, -1)),
        )
        for query_id, ids in order.items()
    }
    return queries, grades, run


def _texts(rows: RowSource, where: str, tables: Path | None) -> Mapping[str, Passage]:
    def passages() -> Iterator[Passage]:
        for row in rows.read():
            found = training_record(row)
            if isinstance(found, TrainingIds):
                raise ConfigError(f"rows:{where}: rows by id; write rows:{where},CORPUS")
            yield from found.positives
            yield from found.negatives

    path = Path(where)
    if path.is_file() and path.stat().st_size < SMALL_BYTES:
        return in_memory(passages(), where)
    return in_table(passages, f"texts of {rows.digest()}", where, tables)
