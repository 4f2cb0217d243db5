"""What an early exit is calibrated with: layers, a ridge regression, and its margin."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dear.rank import early
from dear.rank.early import MOST_LAYERS, _cross_fit, _layers, _margin, _ridge

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


@given(st.integers(2, 80))
def test_layers_are_inside_and_evenly_spread(count: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(early, "layers_of", lambda _: range(count))
        found = _layers(None, None)  # type: ignore[arg-type]
    # after the first one at the earliest; dropping after the last one would save nothing
    assert (found[0], found[-1]) == (1, count - 1)
    assert len(found) == min(count - 1, MOST_LAYERS)
    gaps = np.diff(found)
    assert not len(gaps) or 1 <= gaps.min() <= gaps.max() <= gaps.min() + 1


@pytest.mark.parametrize(("rows", "features"), [(60, 5), (20, 40)])
def test_the_probe_is_scikit_learns_ridge_regression(rows: int, features: int) -> None:
    linear = pytest.importorskip("sklearn.linear_model")
    draw = np.random.default_rng(rows)
    x = draw.normal(size=(rows, features)) * draw.uniform(0.1, 9, size=features)
    x[:, 1] = 3.0  # never changes
    y = x @ draw.normal(size=features) + 20 * draw.normal(size=rows)
    owner = np.arange(rows) % 7

    def theirs(train: np.ndarray, ridge: float) -> np.ndarray:
        scale = x[train].std(0)
        kept = scale > 1e-8
        model = linear.Ridge(alpha=ridge * len(x[train]), fit_intercept=False)
        weights = np.zeros(features)
        weights[kept] = model.fit(x[train][:, kept] / scale[kept], y[train]).coef_ / scale[kept]
        return weights

    # from nothing to ten times the features' own variance, two to a power of ten
    ridges = 10.0 ** np.arange(-4, 1.5, 0.5)
    everything = np.ones(rows, dtype=bool)
    np.testing.assert_allclose(
        _ridge(x, y, ridges), [theirs(everything, r) for r in ridges], rtol=1e-6, atol=1e-9
    )
    predicted = np.empty((len(ridges), rows))
    for fold in range(5):
        out = owner % 5 == fold
        for i, ridge in enumerate(ridges):
            predicted[i, out] = x[out] @ theirs(~out, ridge)
    best = np.square(predicted - y).mean(1).argmin()
    ridge, held_out = _cross_fit(x, y, owner)
    assert 0 < best < len(ridges) - 1
    assert ridge == pytest.approx(ridges[best])
    np.testing.assert_allclose(held_out, predicted[best], rtol=1e-6, atol=1e-9)
