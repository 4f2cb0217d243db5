"""Rows of a reranking file → Candidates; what RankGPT's and rank_llm's layouts share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dear.data.formats.lines import once
from dear.data.formats.rows import Row
from dear.records import Candidates, Passage, Query


def candidates_of(
    row: Row,
    query: Query,
    hits: Sequence[Row],
    passage_of_hit: Callable[[Row, str], Passage],
    seen: set[str],
) -> Candidates:
    """One query's hits, best first. DataError: a query or a passage twice, no hit, mixed scores.

    passage_of_hit: (hit, id to use where it has none) → passage.  seen: query ids so far.
    """
    once(seen, query.id, row.source, row.line, "query id")
    if not hits:
        raise row.error(f"query {query.id!r} has no candidates")
    passages = tuple(passage_of_hit(hit, f"{query.id}-{i}") for i, hit in enumerate(hits))
    ids: set[str] = set()
    for passage in passages:
        once(ids, passage.id, row.source, row.line, f"query {query.id!r}: passage")
    return Candidates(query=query, passages=passages, scores=scores_of(hits) or by_rank(len(hits)))


def scores_of(rows: Sequence[Row]) -> tuple[float, ...] | None:
    """Every row's `score`, or None where none has one. DataError when only some have."""
    scores = [row.number("score") for row in rows]
    known = [score for score in scores if score is not None]
    if not known:
        return None
    if len(known) != len(scores):
        raise rows[scores.index(None)].error("no 'score', though others beside it have one")
    return tuple(known)


def by_rank(count: int) -> tuple[float, ...]:
    """1, 1/2, 1/3 …: scores that say no more than the order does."""
    return tuple(1 / rank for rank in range(1, count + 1))
