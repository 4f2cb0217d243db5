"""Fusion: what weight 0, constant scores and a dev set do."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dear import Ranking
from dear.errors import ConfigError, DataError
from dear.evaluate.metrics import evaluate
from dear.rank.fusion import WEIGHTS, best_weight, fuse, fuse_runs

eighths = st.integers(-80, 80).map(lambda n: n / 8)
score_pairs = st.lists(st.tuples(eighths, eighths), min_size=1, max_size=12)


def ranking(query: str, scores: dict[str, float]) -> Ranking:
    return Ranking.sorted(query, scores, scores.values())


@given(some=score_pairs)
def test_weight_0_keeps_the_order(some: list[tuple[float, float]]) -> None:
    # ids and first stage would both turn ties over
    reranked = Ranking(
        query_id="q",
        passage_ids=tuple(f"d{i}" for i in range(len(some))),
        scores=tuple(sorted((a for a, _ in some), reverse=True)),
    )
    first = ranking("q", {f"d{i}": b for i, (_, b) in enumerate(some)})
    fused = fuse_runs({"q": reranked}, {"q": first}, 0.0)["q"]
    assert fused.passage_ids == reranked.passage_ids


@given(some=score_pairs, weight=st.floats(0, 10))
def test_fused_is_a_weighted_sum_of_z_scores(
    some: list[tuple[float, float]], weight: float
) -> None:
    a, b = (np.array(x) for x in zip(*some, strict=True))

    def z(x: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        return (x - x.mean()) / x.std() if x.std() > 1e-12 else 0 * x

    np.testing.assert_allclose(fuse(a, b, weight), z(a) + weight * z(b), atol=1e-9)


@given(some=score_pairs, scale=st.floats(0.5, 20), shift=eighths, weight=st.floats(0, 2))
def test_scale_and_shift_do_not_matter(
    some: list[tuple[float, float]], scale: float, shift: float, weight: float
) -> None:
    a, b = (np.array(x) for x in zip(*some, strict=True))
    np.testing.assert_allclose(
        fuse(a * scale + shift, b, weight), fuse(a, b * scale - shift, weight), atol=1e-6
    )


@pytest.mark.parametrize("weight", [0.3, 1.0])
def test_constant_scores_leave_it_to_the_other(weight: float) -> None:
    same = {"a": 2.0, "b": 2.0, "c": 2.0}
    differ = {"a": 1.0, "b": 3.0, "c": 2.0}
    for one, two in ((same, differ), (differ, same)):
        fused = fuse_runs({"q": ranking("q", one)}, {"q": ranking("q", two)}, weight)["q"]
        assert fused.passage_ids == ("b", "c", "a")
    both = fuse_runs({"q": ranking("q", same)}, {"q": ranking("q", same)}, weight)["q"]
    assert both.scores == (0, 0, 0)


def test_a_single_passage_and_none() -> None:
    assert fuse([3.0], [1.0], 0.5).tolist() == [0]
    assert fuse([], [], 0.5).shape == (0,)
    assert fuse_runs({}, {}, 0.5) == {}


def test_passages_that_the_reranker_left_out_do_not_count() -> None:
    """z is over what was reranked, not over all that the first stage found."""
    first = ranking("q", {"a": 1.0, "b": 0.0, "far": 1000.0})
    fused = fuse_runs({"q": ranking("q", {"a": 1.0, "b": 1.0})}, {"q": first}, 1.0)["q"]
    assert fused.passage_ids == ("a", "b")
    assert fused.scores == (1, -1)


def test_scores_that_do_not_match() -> None:
    with pytest.raises(DataError, match="3 scores, 1 of the first stage"):
        fuse([1, 2, 3], [1], 0.5)
    for bad in (math.nan, math.inf):
        with pytest.raises(DataError, match="not finite"):
            fuse([1, bad], [1, 2], 0.5)


@pytest.mark.parametrize("weight", [-0.1, math.nan, math.inf])
def test_a_weight_below_0_is_refused(weight: float) -> None:
    with pytest.raises(ConfigError, match="the weight must be 0 or more"):
        fuse([1, 2], [2, 1], weight)


def test_what_the_first_stage_lacks_is_named() -> None:
    reranked = {"q": ranking("q", {"a": 1.0, "b": 2.0})}
    with pytest.raises(DataError, match="the first stage has no query 'q'"):
        fuse_runs(reranked, {}, 0.5)
    with pytest.raises(DataError, match="query 'q': the first stage has no passage 'b'"):
        fuse_runs(reranked, {"q": ranking("q", {"a": 1.0})}, 0.5)


def test_the_best_weight_is_the_best_on_dev() -> None:
    rng = np.random.default_rng(0)
    judgements, reranked, first = {}, {}, {}
    for query in (f"q{i}" for i in range(30)):
        ids = [f"d{i}" for i in range(40)]
        truth = rng.normal(size=40)
        judgements[query] = {d: int(t > 1) for d, t in zip(ids, truth, strict=True)}
        for run in (reranked, first):  # two witnesses that err independently
            noisy = truth + rng.normal(size=40)
            run[query] = ranking(query, dict(zip(ids, noisy.tolist(), strict=True)))
    weight, means = best_weight(reranked, first, judgements)
    assert set(means) == set(WEIGHTS)
    assert means[weight] == max(means.values())
    assert weight >= 0.5  # both are equally good
    assert means[weight] > means[0.0] + 0.02
    alone = evaluate(reranked, judgements, ("nDCG@10",)).means["nDCG@10"]
    assert means[0.0] == pytest.approx(alone)


def test_a_useless_first_stage_gets_weight_0() -> None:
    """The smallest of equally good weights, too."""
    ids = ["a", "b", "c", "d"]
    reranked = {"q": ranking("q", dict(zip(ids, (4.0, 3.0, 2.0, 1.0), strict=True)))}
    wrong = {"q": ranking("q", dict(zip(ids, (1.0, 2.0, 3.0, 4.0), strict=True)))}
    judgements = {"q": {"a": 1}}
    assert best_weight(reranked, wrong, judgements)[0] == 0
    assert best_weight(reranked, reranked, judgements)[0] == 0
    weight, means = best_weight(reranked, wrong, judgements, [3.0, 2.0, 3.0])
    assert weight == 2
    assert means[2.0] == means[3.0]


def test_no_weight_to_try() -> None:
    with pytest.raises(ConfigError, match="no weight to try"):
        best_weight({}, {}, {}, [])


def test_another_measure() -> None:
    reranked = {"q": ranking("q", {"a": 2.0, "b": 1.0})}
    first = {"q": ranking("q", {"a": 1.0, "b": 9.0})}
    weight, means = best_weight(reranked, first, {"q": {"b": 1}}, [0.0, 5.0], "RR@10")
    assert (weight, means) == (5.0, {0.0: 0.5, 5.0: 1.0})
