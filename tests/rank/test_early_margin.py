"""The margin of an early exit is the quantile that split conformal prediction promises."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dear.rank.early import _margin

KEEPS = st.sampled_from(["0.5", "0.7", "0.8", "0.9", "0.95"])


def margin(predicted: list[list[float]], logits: list[list[float]], top_k: int, keep: str) -> float:
    owner = np.repeat(np.arange(len(predicted)), [len(q) for q in predicted])
    return _margin(np.concatenate(predicted), np.concatenate(logits), owner, top_k, float(keep))


@given(st.data(), st.integers(2, 25), st.integers(1, 3), KEEPS)
def test_the_margin_is_the_smallest_that_keeps_enough(
    data: st.DataObject, queries: int, top_k: int, keep: str
) -> None:
    size = top_k + 2
    scores = st.lists(st.integers(-9, 9).map(float), min_size=size, max_size=size)
    predicted = [data.draw(scores) for _ in range(queries)]
    logits = [data.draw(scores) for _ in range(queries)]
    found = margin(predicted, logits, top_k, keep)
    shortfalls = [
        sorted(mine, reverse=True)[top_k - 1] - mine[i]
        for mine, true in zip(predicted, logits, strict=True)
        # the first of equals, as a ranking has them
        for i in sorted(range(size), key=lambda i: -true[i])[:top_k]
    ]
    wanted = min(len(shortfalls), math.ceil((len(shortfalls) + 1) * Fraction(keep)))
    assert sum(s <= found for s in shortfalls) >= wanted
    assert found == 0 or sum(s < found for s in shortfalls) < wanted


@given(st.permutations(range(22)), KEEPS)
def test_a_query_that_was_left_out_is_kept_as_often_as_promised(
    order: list[int], keep: str
) -> None:
    """Whichever of 22 queries is the new one: on average over them, exactly the theorem."""
    # the best passage of query i falls short of the best prediction by order[i]
    predicted = [[float(n), 0.0] for n in order]
    logits = [[0.0, 1.0]] * len(order)
    kept = 0
    for new, short in enumerate(order):
        others = [q for q in range(len(order)) if q != new]
        found = margin([predicted[q] for q in others], [logits[q] for q in others], 1, keep)
        kept += short <= found
    assert Fraction(kept, len(order)) >= Fraction(keep)
    # and no more than one query above it
    assert Fraction(kept - 1, len(order)) < Fraction(keep)
