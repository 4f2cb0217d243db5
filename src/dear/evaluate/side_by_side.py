"""Two rankings of one query, side by side: where each passage stands in either."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dear.records import Judgements, Ranking, Run


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """A passage on one side.

    rank: from 1.  other: its rank on the other side; None where that does not rank it.
    grade: None where nobody judged it.
    """

    passage_id: str
    rank: int
    other: int | None
    score: float
    grade: int | None

    @property
    def moved(self) -> int | None:
        """Ranks that it is higher here than there; None where there is no other rank."""
        return None if self.other is None else self.other - self.rank


@dataclass(frozen=True, kw_only=True, slots=True)
class SideBySide:
    """The best passages of both runs for one query.

    a, b: best first, at most as many as were asked for; empty where a run lacks the query.
    only_a, only_b: those of a side that the other has not among its own.
    """

    query_id: str
    a: tuple[Place, ...]
    b: tuple[Place, ...]

    @property
    def only_a(self) -> tuple[Place, ...]:
        return _missing(self.a, self.b)

    @property
    def only_b(self) -> tuple[Place, ...]:
        return _missing(self.b, self.a)

    @property
    def shared(self) -> int:
        """Passages that are among the best of both."""
        return len(self.a) - len(self.only_a)


def beside(query_id: str, a: Run, b: Run, grades: Mapping[str, int], top: int) -> SideBySide:
    """The best `top` of each; grades: passage id → grade, of this query."""
    one, other = a.get(query_id), b.get(query_id)
    return SideBySide(
        query_id=query_id, a=_side(one, other, grades, top), b=_side(other, one, grades, top)
    )


def largest_changes(
    before: Mapping[str, float], after: Mapping[str, float], count: int, *, gains: bool = False
) -> list[str]:
    """At most `count` query ids by falling loss (or gain), ties by id; those without one are
    left out."""
    sign = -1 if gains else 1
    found = [(sign * (after[q] - before[q]), q) for q in before]
    return [q for change, q in sorted(found)[:count] if change < 0]


def most_different(a: Run, b: Run, judgements: Judgements | None, top: int) -> str | None:
    """The query whose best `top` passages share least, first by id; None where no query is in
    both. judgements: only of the judged ones, where there are any."""
    both = sorted(q for q in a if q in b)
    judged = [q for q in both if judgements is None or q in judgements] or both
    return min(judged, key=lambda q: beside(q, a, b, {}, top).shared, default=None)


def _side(
    ranking: Ranking | None, other: Ranking | None, grades: Mapping[str, int], top: int
) -> tuple[Place, ...]:
    if ranking is None:
        return ()
    there = {} if other is None else {p: rank for rank, p in enumerate(other.passage_ids, 1)}
    return tuple(
        Place(
            passage_id=passage_id,
            rank=rank,
            other=there.get(passage_id),
            score=score,
            grade=grades.get(passage_id),
        )
        for rank, (passage_id, score) in enumerate(
            zip(ranking.passage_ids[:top], ranking.scores[:top], strict=True), 1
        )
    )


def _missing(side: Sequence[Place], other: Sequence[Place]) -> tuple[Place, ...]:
    there = {place.passage_id for place in other}
    return tuple(place for place in side if place.passage_id not in there)
