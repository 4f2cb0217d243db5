"""nDCG, MRR, MAP, recall, precision and judged@k by counting, for all queries at once.

trec_eval's definitions, in float64; tests hold them to it on every collection at hand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dear.errors import DataError

Floats: TypeAlias = NDArray[np.float64]
Integers: TypeAlias = NDArray[np.int64]

UNJUDGED = -1
"""Stands for the grade of a passage that nobody judged; grades are 0 or more."""


@dataclass(frozen=True, slots=True)
class Lists:
    """A list of grades for each of Q queries, one list behind the other: N in all.

    grades: (N,).  starts: (Q,) where each query's begin.  ranks: (N,) from 0 within the query.
    No list is empty.
    """

    grades: Integers
    starts: Integers
    ranks: Integers

    @classmethod
    def of(cls, grades: Integers, lengths: Sequence[int]) -> Lists:
        sizes = np.asarray(lengths, dtype=np.int64)
        starts = np.cumsum(sizes) - sizes
        return cls(grades, starts, np.arange(len(grades)) - np.repeat(starts, sizes))

    @property
    def lengths(self) -> Integers:
        return np.diff(self.starts, append=len(self.grades))

    def sums(self, values: NDArray[Any], cutoff: int | None) -> Floats:
        """(Q,) of values (N,), over the first `cutoff` of each query, or over all."""
        kept = values if cutoff is None else np.where(self.ranks < cutoff, values, 0)
        return np.add.reduceat(kept, self.starts, dtype=np.float64)

    def dcg(self, cutoff: int | None) -> Floats:
        """(Q,); a grade of 0 and below gains nothing."""
        return self.sums(np.maximum(self.grades, 0) / np.log2(self.ranks + 2), cutoff)


@dataclass(frozen=True, slots=True)
class Counted:
    """Rankings of Q queries as grades, and the grades that could have been had, best first."""

    ranked: Lists
    ideal: Lists

    @classmethod
    def of(
        cls, ranked: Mapping[str, Sequence[str]], judged: Mapping[str, Mapping[str, int]]
    ) -> Counted:
        """ranked: query id → passage ids, best first, one at least.  judged: grades, 0 or more,
        one at least for each of these queries. DataError for a grade beyond 64 bits."""
        found: list[int] = []
        best: list[int] = []
        for query_id, passage_ids in ranked.items():
            grades = judged[query_id]
            found.extend(map(grades.get, passage_ids, repeat(UNJUDGED)))
            best.extend(sorted(grades.values(), reverse=True))
        try:
            return cls(
                Lists.of(np.array(found, dtype=np.int64), [len(ids) for ids in ranked.values()]),
                Lists.of(np.array(best, dtype=np.int64), [len(judged[q]) for q in ranked]),
            )
        except OverflowError as error:
            raise DataError(f"a grade of {max(best)} is beyond 64 bits") from error

    def values(self, definition: Any) -> Floats:
        """(Q,) of a measure that `counts` accepts, in the order of the rankings."""
        parameters = definition.params
        return _FORMULAS[definition.NAME](self, parameters.get("cutoff"), parameters.get("rel", 1))


def counts(definition: Any) -> bool:
    """Whether this measure of ir-measures is computed here: known, and with no other parameter
    than a cutoff and a lowest relevant grade above 0."""
    parameters = definition.params
    return (
        definition.NAME in _FORMULAS
        and parameters.keys() <= {"cutoff", "rel"}
        and parameters.get("rel", 1) > 0
    )


def _ndcg(found: Counted, cutoff: int | None, _level: int) -> Floats:
    return _share(found.ranked.dcg(cutoff), found.ideal.dcg(cutoff))


def _rr(found: Counted, cutoff: int | None, level: int) -> Floats:
    ranked = found.ranked
    reciprocal = np.where(ranked.grades >= level, 1 / (ranked.ranks + 1), 0.0)
    if cutoff is not None:
        reciprocal[ranked.ranks >= cutoff] = 0
    return np.maximum.reduceat(reciprocal, ranked.starts)


def _ap(found: Counted, cutoff: int | None, level: int) -> Floats:
    ranked = found.ranked
    relevant = ranked.grades >= level
    # over all queries, then over this one
    before: Integers = np.cumsum(relevant) - relevant
    before = before - np.repeat(before[ranked.starts], ranked.lengths)
    precision = np.where(relevant, (before + 1) / (ranked.ranks + 1), 0.0)
    return _share(ranked.sums(precision, cutoff), _relevant(found.ideal, None, level))


def _recall(found: Counted, cutoff: int | None, level: int) -> Floats:
    relevant = _relevant(found.ideal, None, level)
    return _share(_relevant(found.ranked, cutoff, level), relevant)


def _precision(found: Counted, cutoff: int | None, level: int) -> Floats:
    sizes = found.ranked.lengths if cutoff is None else cutoff
    return _relevant(found.ranked, cutoff, level) / sizes


def _judged(found: Counted, cutoff: int | None, _level: int) -> Floats:
    """Of a ranking shorter than the cutoff, the share of what there is."""
    sizes = found.ranked.lengths
    judged = _relevant(found.ranked, cutoff, UNJUDGED + 1)
    return judged / (sizes if cutoff is None else np.minimum(sizes, cutoff))


def _relevant(lists: Lists, cutoff: int | None, level: int) -> Floats:
    return lists.sums(lists.grades >= level, cutoff)


def _share(part: Floats, whole: Floats) -> Floats:
    """0 where there is no whole: no relevant passage."""
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


# by ir-measures' name
_FORMULAS: dict[str, Callable[[Counted, int | None, int], Floats]] = {
    "nDCG": _ndcg,
    "RR": _rr,
    "AP": _ap,
    "R": _recall,
    "P": _precision,
    "Judged": _judged,
}
