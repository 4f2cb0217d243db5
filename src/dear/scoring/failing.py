"""Scores of all pairs but those that have none: a bad row costs itself alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dear.errors import DataError, DearError
from dear.scoring.batching import NotFinite, require_finite

if TYPE_CHECKING:
    from dear.scoring.encoding import Pair

    Score: TypeAlias = Callable[[Sequence[Pair]], NDArray[np.float32]]

MOST_FAILING = 100
"""Pairs without a score, of a call or of a job: with more of them it is the model that fails."""


@dataclass(frozen=True, slots=True)
class Scored:
    """scores: float32 (n,), NaN where there is none.  reasons: position → why."""

    scores: NDArray[np.float32]
    reasons: Mapping[int, str] = field(default_factory=dict)


def score_each(score: Score, pairs: Sequence[Pair]) -> Scored:
    """The scores of one call; where it raises, of one call without the pairs that raise by
    themselves.

    What is wrong with the model (ConfigError, BackendError, ...) is raised, and so is what more
    than MOST_FAILING pairs raise.
    """
    try:
        scores = score(pairs)
        require_finite("the model", scores, pairs)
    except NotFinite as error:
        bad = np.flatnonzero(~np.isfinite(error.scores)).tolist()
        if len(bad) > MOST_FAILING:
            raise
        return _without(error.scores, {i: f"its score is {error.scores[i]}" for i in bad})
    except Exception as error:
        if not _may_be_a_pair(error):
            raise
        reasons = dict(_raising(score, pairs, 0, len(pairs), error, [MOST_FAILING]))
    else:
        return Scored(scores)
    kept = [i for i in range(len(pairs)) if i not in reasons]
    scores = np.full(len(pairs), np.nan, dtype=np.float32)
    if kept:
        # an error that no pair raises by itself was of the moment, or comes again here
        found = score_each(score, [pairs[i] for i in kept]) if reasons else Scored(score(pairs))
        scores[kept] = found.scores
        reasons |= {kept[i]: why for i, why in found.reasons.items()}
    return _without(scores, reasons)


def _without(scores: NDArray[np.float32], reasons: Mapping[int, str]) -> Scored:
    scores = scores.copy()
    scores[list(reasons)] = np.nan
    return Scored(scores, dict(sorted(reasons.items())))


def _may_be_a_pair(error: Exception) -> bool:
    """What a library raises, or of ours what is wrong with data."""
    return not isinstance(error, DearError) or isinstance(error, DataError | NotFinite)


def _raising(
    score: Score, pairs: Sequence[Pair], first: int, behind: int, error: Exception, left: list[int]
) -> Iterator[tuple[int, str]]:
    """(position, what that pair alone raises), by halves. left: [so many, before `error` is
    raised]."""
    if behind - first == 1:
        left[0] -= 1
        if left[0] < 0:
            raise error
        yield first, (f"{type(error).__name__}: {error}".splitlines() or [""])[0]
        return
    middle = (first + behind) // 2
    for start, end in ((first, middle), (middle, behind)):
        try:
            require_finite("the model", score(pairs[start:end]), pairs[start:end])
        except Exception as inner:
            if not _may_be_a_pair(inner):
                raise
            yield from _raising(score, pairs, start, end, inner, left)
