"""Measures computed from grades by rank, for all queries at once.

The definitions of trec_eval, and of gdeval for ERR and exponential gains, in float64; tests hold
them to both on every collection at hand. The table is FORMULAS.
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
    def of(cls, grades: Integers, lengths: Sequence[int] | Integers) -> Lists:
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

    def before(self, flags: NDArray[np.bool_]) -> Integers:
        """(N,) how many of the flagged stand above each position, within its query."""
        above: Integers = np.cumsum(flags) - flags
        return above - np.repeat(above[self.starts], self.lengths)

    def matrix(self, cutoff: int | None) -> Integers:
        """(Q, K) grades, padded with UNJUDGED; K: the longest list, at most `cutoff`."""
        longest = int(self.lengths.max())
        width = longest if cutoff is None else min(cutoff, longest)
        table = np.full((len(self.starts), width), UNJUDGED)
        query = np.repeat(np.arange(len(self.starts)), self.lengths)
        kept = self.ranks < width
        table[query[kept], self.ranks[kept]] = self.grades[kept]
        return table

    def judged(self) -> Lists:
        """Without the passages that nobody judged; a list of nothing else keeps one of them."""
        kept = self.grades != UNJUDGED
        none_left = np.add.reduceat(kept, self.starts, dtype=np.int64) == 0
        kept[self.starts[none_left]] = True
        lengths = np.add.reduceat(kept, self.starts, dtype=np.int64)
        return Lists.of(self.grades[kept], lengths)


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
        """(Q,) of one of ir-measures' measures that FORMULAS names, in the order of the rankings.

        DataError: grades that the measure is not defined for.
        """
        parameters = definition.params
        if parameters.get("judged_only", False):
            self = Counted(self.ranked.judged(), self.ideal)
        level = parameters.get("rel", 1)
        return FORMULAS[definition.NAME](self, parameters.get("cutoff"), level, parameters)

    def relevant(self, level: int) -> Floats:
        """(Q,) how many passages are judged relevant, retrieved or not."""
        return _relevant(self.ideal, None, level)


Parameters: TypeAlias = Mapping[str, Any]
"""Of a measure, as ir-measures has them; absent where they are not given."""


def _ndcg(found: Counted, cutoff: int | None, _level: int, parameters: Parameters) -> Floats:
    gain = _gain(parameters.get("gains", {}), exponential=parameters.get("dcg") == "exp-log2")
    ranked, ideal = found.ranked, found.ideal
    best = gain(ideal.grades)
    if "gains" in parameters:  # they may turn the order of the grades around
        query = np.repeat(np.arange(len(ideal.starts)), ideal.lengths)
        best = best[np.lexsort((-best, query))]
    dcg = ranked.sums(gain(ranked.grades) / np.log2(ranked.ranks + 2), cutoff)
    return _share(dcg, ideal.sums(best / np.log2(ideal.ranks + 2), cutoff))


def _gain(gains: Mapping[int, int], *, exponential: bool) -> Callable[[Integers], Floats]:
    """What grades gain: `gains` where it names them, else themselves; unjudged ones nothing."""

    def gain(grades: Integers) -> Floats:
        found = np.maximum(grades, 0).astype(np.float64)
        for grade, value in gains.items():
            found[grades == grade] = value
        return np.exp2(found) - 1 if exponential else found

    return gain


def _rr(found: Counted, cutoff: int | None, level: int, _parameters: Parameters) -> Floats:
    ranked = found.ranked
    reciprocal = np.where(ranked.grades >= level, 1 / (ranked.ranks + 1), 0.0)
    if cutoff is not None:
        reciprocal[ranked.ranks >= cutoff] = 0
    return np.maximum.reduceat(reciprocal, ranked.starts)


def _ap(found: Counted, cutoff: int | None, level: int, _parameters: Parameters) -> Floats:
    ranked = found.ranked
    relevant = ranked.grades >= level
    precision = np.where(relevant, (ranked.before(relevant) + 1) / (ranked.ranks + 1), 0.0)
    return _share(ranked.sums(precision, cutoff), found.relevant(level))


def _recall(found: Counted, cutoff: int | None, level: int, _parameters: Parameters) -> Floats:
    return _share(_relevant(found.ranked, cutoff, level), found.relevant(level))


def _precision(found: Counted, cutoff: int | None, level: int, _parameters: Parameters) -> Floats:
    sizes = found.ranked.lengths if cutoff is None else cutoff
    return _relevant(found.ranked, cutoff, level) / sizes


def _success(found: Counted, cutoff: int | None, level: int, _parameters: Parameters) -> Floats:
    return (_relevant(found.ranked, cutoff, level) > 0).astype(np.float64)


def _rprec(found: Counted, _cutoff: int | None, level: int, _parameters: Parameters) -> Floats:
    """Precision among as many passages as there are relevant ones."""
    ranked, total = found.ranked, found.relevant(level)
    inside = ranked.ranks < np.repeat(total, ranked.lengths)
    return _share(ranked.sums((ranked.grades >= level) & inside, None), total)


def _set(found: Counted, level: int) -> tuple[Floats, Floats]:
    """Precision and recall of all that was retrieved."""
    hits = _relevant(found.ranked, None, level)
    return hits / found.ranked.lengths, _share(hits, found.relevant(level))


def _set_precision(
    found: Counted, _cutoff: int | None, level: int, parameters: Parameters
) -> Floats:
    if not parameters.get("relative", False):
        return _set(found, level)[0]
    most = np.minimum(found.ranked.lengths, found.relevant(level))
    return _share(_relevant(found.ranked, None, level), most)


def _set_recall(found: Counted, _cutoff: int | None, level: int, _parameters: Parameters) -> Floats:
    return _set(found, level)[1]


def _set_ap(found: Counted, _cutoff: int | None, level: int, _parameters: Parameters) -> Floats:
    precision, recall = _set(found, level)
    return precision * recall


def _set_f(found: Counted, _cutoff: int | None, level: int, parameters: Parameters) -> Floats:
    precision, recall = _set(found, level)
    weight = float(parameters.get("beta", 1.0)) ** 2
    return _share((1 + weight) * precision * recall, weight * precision + recall)


def _interpolated_precision(
    found: Counted, _cutoff: int | None, level: int, parameters: Parameters
) -> Floats:
    """The best precision at any rank from the one on that reaches the recall."""
    ranked = found.ranked
    relevant = ranked.grades >= level
    hits = ranked.before(relevant) + relevant
    total = found.relevant(level)
    # trec_eval's way to round up
    needed = np.floor(float(parameters["recall"]) * total + 0.9)
    precision = np.where(hits >= np.repeat(needed, ranked.lengths), hits / (ranked.ranks + 1), 0.0)
    return np.where(total > 0, np.maximum.reduceat(precision, ranked.starts), 0.0)


def _bpref(found: Counted, _cutoff: int | None, level: int, _parameters: Parameters) -> Floats:
    """Buckley and Voorhees 2004: how seldom judged non-relevant passages stand above relevant
    ones."""
    ranked, total = found.ranked, found.relevant(level)
    others = found.ideal.lengths - total
    relevant = ranked.grades >= level
    wrong = ranked.before((ranked.grades != UNJUDGED) & ~relevant)
    most = np.repeat(np.minimum(total, others), ranked.lengths)
    bounded = np.minimum(wrong, np.repeat(total, ranked.lengths))
    preferred = np.where(relevant, 1 - _share(bounded.astype(np.float64), most), 0.0)
    return _share(ranked.sums(preferred, None), total)


def _err(found: Counted, cutoff: int | None, _level: int, _parameters: Parameters) -> Floats:
    """Chapelle et al. 2009, as gdeval has it: a grade g satisfies with (2^g - 1) / 2^4."""
    highest = int(found.ideal.grades.max())
    if highest > HIGHEST_OF_ERR:
        raise DataError(
            f"a grade of {highest}: ERR is defined for grades up to {HIGHEST_OF_ERR}; "
            "nDCG takes any"
        )
    grades = np.maximum(found.ranked.matrix(cutoff), 0)
    stops = (np.exp2(grades) - 1) / 2**HIGHEST_OF_ERR
    reached = np.cumprod(1 - stops, axis=1)
    reached = np.concatenate([np.ones((len(stops), 1)), reached[:, :-1]], axis=1)
    value: Floats = np.sum(stops * reached / np.arange(1, stops.shape[1] + 1), axis=1)
    return value


def _rbp(found: Counted, cutoff: int | None, level: int, parameters: Parameters) -> Floats:
    """Moffat and Zobel 2008, over relevant or not."""
    patience = float(parameters.get("p", 0.8))
    ranked = found.ranked
    gains = (ranked.grades >= level) * patience ** ranked.ranks.astype(np.float64)
    return ranked.sums((1 - patience) * gains, cutoff)


def _accuracy(found: Counted, cutoff: int | None, level: int, _parameters: Parameters) -> Floats:
    """The share of retrieved (relevant, not relevant) pairs in the right order; 1 where all that
    was retrieved is relevant."""
    ranked = found.ranked
    relevant = ranked.grades >= level
    hits = ranked.sums(relevant, cutoff)
    wrong = ranked.sums(np.where(relevant, ranked.before(~relevant), 0), cutoff)
    return np.where(hits > 0, 1 - _share(wrong, hits * ranked.sums(~relevant, cutoff)), 0.0)


def _judged(found: Counted, cutoff: int | None, _level: int, _parameters: Parameters) -> Floats:
    """Of a ranking shorter than the cutoff, the share of what there is."""
    sizes = found.ranked.lengths
    judged = _relevant(found.ranked, cutoff, UNJUDGED + 1)
    return judged / (sizes if cutoff is None else np.minimum(sizes, cutoff))


def _relevant(lists: Lists, cutoff: int | None, level: int) -> Floats:
    return lists.sums(lists.grades >= level, cutoff)


def _share(part: Floats, whole: Floats | Integers) -> Floats:
    """0 where there is no whole: no relevant passage."""
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


HIGHEST_OF_ERR = 4
"""gdeval's highest grade."""

FORMULAS: dict[str, Callable[[Counted, int | None, int, Parameters], Floats]] = {
    "nDCG": _ndcg,
    "RR": _rr,
    "AP": _ap,
    "R": _recall,
    "P": _precision,
    "Success": _success,
    "Rprec": _rprec,
    "SetP": _set_precision,
    "SetR": _set_recall,
    "SetAP": _set_ap,
    "SetF": _set_f,
    "IPrec": _interpolated_precision,
    "Bpref": _bpref,
    "ERR": _err,
    "RBP": _rbp,
    "Accuracy": _accuracy,
    "Judged": _judged,
}
"""By ir-measures' name: (rankings, cutoff, lowest relevant grade, parameters) → (Q,)."""
