"""Scores of all pairs but those that have none: a bad row costs itself alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dear.errors import DataError, DearError, NotFinite
from dear.scoring.batching import require_finite

if TYPE_CHECKING:
    from dear.scoring.encoding import Pair

    Score: TypeAlias = Callable[[Sequence[Pair]], NDArray[np.float32]]

MOST_FAILING = 100
"""Pairs without a score, of a call or of a job: with more of them it is the model that fails."""

REASON_CHARACTERS = 300
"""A library may quote the whole text."""


@dataclass(frozen=True, slots=True)
class ScoredPairs:
    """scores: float32 (n,), NaN where there is none.  reasons: position → why."""

    scores: NDArray[np.float32]
    reasons: Mapping[int, str] = field(default_factory=dict)


def score_each(score: Score, pairs: Sequence[Pair]) -> ScoredPairs:
    """The scores of one call; where it raises, of one call without the pairs that raise by
    themselves.

    What is wrong with the model (ConfigError, BackendError, ...) is raised, and so is what more
    than MOST_FAILING pairs raise, and what none of them raises by itself but all of them do twice.
    """

    def finite(part: Sequence[Pair]) -> NDArray[np.float32]:
        scores = score(part)
        require_finite("the model", scores, part)
        return scores

    try:
        return ScoredPairs(finite(pairs))
    except Exception as error:
        _require_of_a_pair(error)
        reasons = dict(_raising(finite, pairs, 0, len(pairs), error, [MOST_FAILING]))
    kept = [i for i in range(len(pairs)) if i not in reasons]
    scores = np.full(len(pairs), np.nan, dtype=np.float32)
    if kept:
        scores[kept] = finite([pairs[i] for i in kept])
    return ScoredPairs(scores, reasons)


def _require_of_a_pair(error: Exception) -> None:
    """Raises what no pair alone is to blame for: of ours, all but what is wrong with data."""
    if isinstance(error, DearError) and not isinstance(error, DataError | NotFinite):
        raise error


def _raising(
    score: Score, pairs: Sequence[Pair], first: int, behind: int, error: Exception, left: list[int]
) -> Iterator[tuple[int, str]]:
    """(position, what that pair alone raises) in order, by halves. left: [so many, before `error`
    is raised]."""
    if behind - first == 1:
        left[0] -= 1
        if left[0] < 0:
            raise error
        kind = "" if isinstance(error, DearError) else f"{type(error).__name__}: "
        yield first, f"{kind}{error}".partition("\n")[0][:REASON_CHARACTERS]
        return
    middle = (first + behind) // 2
    for start, end in ((first, middle), (middle, behind)):
        try:
            score(pairs[start:end])
        except Exception as inner:
            _require_of_a_pair(inner)
            yield from _raising(score, pairs, start, end, inner, left)
