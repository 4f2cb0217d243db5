"""Probabilities: measures against plain loops, maps against other people's code."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import isotonic_regression, minimize
from scipy.special import expit

from dear.errors import ConfigError, ContractMismatch, DataError
from dear.evaluate.calibration import (
    CALIBRATION_FILE,
    KINDS,
    Calibration,
    Isotonic,
    Logistic,
    calibrate,
    cross_fitted,
    fit_isotonic,
    fit_platt,
    fit_temperature,
    pool_adjacent_violators,
)
from dear.evaluate.reliability import (
    JudgedScores,
    assess,
    expected_error,
    judged_scores,
    largest_error,
    reliability,
)
from dear.records import Ranking

CONTRACT = {"name": "dear", "prompt": "dear", "max_tokens": 128, "dtype": "bfloat16"}


def drawn(pairs: int = 600, slope: float = 2.0, bias: float = -3.0, seed: int = 0) -> JudgedScores:
    """Scores whose probabilities are sigmoid(slope s + bias), over 30 queries."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(0, 2, pairs)
    relevant = rng.random(pairs) < expit(slope * scores + bias)
    return JudgedScores(scores=scores, relevant=relevant, query=np.arange(pairs) % 30)


def fitted(kind: str = "platt", **changes: Any) -> Calibration:
    about = {"revision": "local-1", "contract": CONTRACT, **changes}
    return calibrate(drawn(), kind, **about)


lists = st.lists(
    st.tuples(st.floats(0, 1, allow_nan=False), st.booleans()), min_size=1, max_size=60
)


@given(lists, st.integers(1, 20))
def test_bins_hold_every_pair_once(pairs: list[tuple[float, bool]], bins: int) -> None:
    p, y = zip(*pairs, strict=True)
    for curve in (reliability(p, y, bins=bins), reliability(p, y, bins=bins, by="mass")):
        assert sum(b.count for b in curve) == len(p)
        assert sum(b.count * b.probability for b in curve) == pytest.approx(sum(p), abs=1e-9)
        assert sum(b.count * b.relevant for b in curve) == pytest.approx(sum(y), abs=1e-9)
        assert [b.low for b in curve] == sorted(b.low for b in curve)
        assert all(b.low <= b.probability + 1e-12 <= b.high + 2e-12 for b in curve)
        assert 0 <= expected_error(curve) <= largest_error(curve) + 1e-12 <= 1 + 2e-12


@given(lists)
def test_measures_are_those_of_a_plain_loop(pairs: list[tuple[float, bool]]) -> None:
    p, y = map(list, zip(*pairs, strict=True))
    gaps = []
    for b in range(10):
        edges = (b / 10, (b + 1) / 10)
        mine = [i for i, v in enumerate(p) if edges[0] <= v < edges[1] or (b == 9 and v == 1)]
        if mine:
            gap = abs(np.mean([p[i] for i in mine]) - np.mean([y[i] for i in mine]))
            gaps.append((len(mine), float(gap)))
    found = assess(p, y, bins=10)
    assert found.ece == pytest.approx(sum(n * g for n, g in gaps) / len(p), abs=1e-9)
    assert found.mce == pytest.approx(max(g for _, g in gaps), abs=1e-9)
    assert found.brier == pytest.approx(np.mean([(a - b) ** 2 for a, b in pairs]), abs=1e-12)


def test_brier_and_likelihood_are_those_of_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    data = drawn()
    p = expit(data.scores)
    found = assess(p, data.relevant)
    assert found.brier == pytest.approx(metrics.brier_score_loss(data.relevant, p), abs=1e-12)
    assert found.nll == pytest.approx(metrics.log_loss(data.relevant, p), abs=1e-12)


def test_equal_probabilities_share_a_bin_by_mass() -> None:
    curve = reliability([0.2] * 9 + [0.9], [True] * 3 + [False] * 6 + [True], bins=5, by="mass")
    assert [(b.count, b.relevant) for b in curve] == [(9, 1 / 3), (1, 1.0)]


def test_certain_and_wrong_is_finite() -> None:
    assert assess([1.0, 0.0], [False, True]).nll == pytest.approx(-np.log(1e-12))


@pytest.mark.parametrize(
    ("p", "y", "said"),
    [
        ([], [], "nothing to assess"),
        ([1.0 + 1e-9], [True], "outside"),
        ([-1e-9], [True], "outside"),
        ([float("nan")], [True], "outside"),
        ([0.5], [True, False], "judge"),
    ],
)
def test_what_is_no_probability_is_refused(p: list[float], y: list[bool], said: str) -> None:
    with pytest.raises(DataError, match=said):
        assess(p, y)
    with pytest.raises(ConfigError, match="by"):
        reliability([0.5], [True], by="size")  # type: ignore[arg-type]


# -- which pairs ---------------------------------------------------------------------------


def test_judged_pairs_alone_unless_told() -> None:
    run = {
        "a": Ranking(query_id="a", passage_ids=("1", "2", "3"), scores=(3.0, 2.0, 1.0)),
        "x": Ranking(query_id="x", passage_ids=("1",), scores=(9.0,)),
        "b": Ranking(query_id="b", passage_ids=("1", "2"), scores=(5.0, 4.0)),
    }
    grades = {"a": {"1": 2, "3": 0}, "b": {"2": 1}, "c": {"1": 1}}
    left = judged_scores(run, grades)
    assert left.scores.tolist() == [3.0, 1.0, 4.0]
    assert left.relevant.tolist() == [True, False, True]
    assert left.query.tolist() == [0, 0, 1]
    assert judged_scores(run, grades, min_grade=2).relevant.tolist() == [True, False, False]
    whole = judged_scores(run, grades, unjudged="irrelevant")
    assert whole.scores.tolist() == [3.0, 2.0, 1.0, 5.0, 4.0]
    assert whole.relevant.tolist() == [True, False, False, False, True]
    with pytest.raises(ConfigError, match="unjudged"):
        judged_scores(run, grades, unjudged="drop")  # type: ignore[arg-type]


@pytest.mark.parametrize(("relevant", "said"), [([1, 1], "all 2"), ([0, 0], "none"), ([], "no pa")])
def test_pairs_of_one_sort_say_so(relevant: list[int], said: str) -> None:
    n = len(relevant)
    pairs = JudgedScores(
        scores=np.zeros(n), relevant=np.array(relevant, dtype=bool), query=np.arange(n)
    )
    with pytest.raises(DataError, match=said):
        calibrate(pairs, "platt", revision="r", contract={})


# -- maps ----------------------------------------------------------------------------------


@given(
    st.lists(
        st.tuples(st.floats(-5, 5, allow_nan=False), st.floats(0.1, 3)), min_size=1, max_size=40
    )
)
def test_pooling_is_that_of_scipy(points: list[tuple[float, float]]) -> None:
    values, weights = map(list, zip(*points, strict=True))
    expected = isotonic_regression(values, weights=weights).x
    assert pool_adjacent_violators(values, weights) == pytest.approx(expected, abs=1e-9)


def test_isotonic_is_that_of_scikit_learn() -> None:
    isotonic = pytest.importorskip("sklearn.isotonic")
    data = drawn()
    scores = np.round(data.scores, 1)  # ties
    oracle = isotonic.IsotonicRegression(out_of_bounds="clip").fit(scores, data.relevant)
    least = 1 / (len(data) + 2)
    at = np.linspace(-9, 9, 500)
    expected = np.clip(oracle.predict(at), least, 1 - least)
    fit = fit_isotonic(scores, data.relevant)
    # where a level of 0 or 1 ends, the cut comes before the line is drawn
    assert fit(at) == pytest.approx(expected, abs=2 * least)


def _loss(weights: Any, scores: Any, relevant: Any) -> float:
    yes, no = relevant.sum(), (~relevant).sum()
    target = np.where(relevant, (yes + 1) / (yes + 2), 1 / (no + 2))
    z = weights[0] * scores + (weights[1] if len(weights) > 1 else 0.0)
    return float((np.logaddexp(0, z) - target * z).sum())


@pytest.mark.parametrize("scale", [1.0, 1e-4, 1e4])
def test_platt_and_temperature_are_of_greatest_likelihood(scale: float) -> None:
    data = drawn()
    scores = data.scores * scale
    platt = fit_platt(scores, data.relevant)
    best = minimize(_loss, [1, 0], args=(data.scores, data.relevant), options={"gtol": 1e-8}).x
    assert platt.slope * scale == pytest.approx(best[0], rel=1e-4)
    assert platt.bias == pytest.approx(best[1], rel=1e-4)
    best = minimize(_loss, [1], args=(data.scores, data.relevant), options={"gtol": 1e-8}).x
    assert fit_temperature(scores, data.relevant).slope * scale == pytest.approx(best[0], rel=1e-4)


def test_platt_is_that_of_scikit_learn() -> None:
    calibration = pytest.importorskip("sklearn.calibration")
    data = drawn()
    oracle = calibration._SigmoidCalibration().fit(data.scores, data.relevant)
    found = fit_platt(data.scores, data.relevant)
    assert (found.slope, found.bias) == pytest.approx((-oracle.a_, -oracle.b_), rel=1e-3)


def test_what_a_threshold_parts_has_a_finite_map() -> None:
    scores = np.array([-2.0, -1.0, 1.0, 2.0])
    found = fit_platt(scores, scores > 0)
    assert 0 < found.slope < 100
    assert fit_isotonic(scores, scores > 0)(np.array([-9.0, 9.0])).tolist() == [1 / 6, 5 / 6]


@pytest.mark.parametrize("kind", KINDS)
def test_scores_that_fall_with_relevance_have_no_map(kind: str) -> None:
    scores = np.linspace(-1, 1, 40)
    with pytest.raises(DataError, match="do not rise"):
        KINDS[kind](scores, scores < 0)
    with pytest.raises(DataError, match="do not rise"):
        KINDS[kind](np.ones(4), np.array([True, False, True, False]) & (kind == "isotonic"))


@pytest.mark.parametrize("kind", KINDS)
@given(st.lists(st.floats(-30, 30, allow_nan=False), min_size=2, max_size=40))
def test_no_ranking_changes(kind: str, scores: list[float]) -> None:
    data = drawn(200)
    found = KINDS[kind](data.scores, data.relevant)(np.sort(np.array(scores)))
    assert (np.diff(found) >= -1e-15).all()
    assert ((found >= 0) & (found <= 1)).all()


# -- fitted, kept, and held to its model -----------------------------------------------------


@pytest.mark.parametrize("kind", ["platt", "isotonic"])
def test_a_map_makes_probabilities_of_scores(kind: str) -> None:
    found = calibrate(drawn(6000), kind, revision="r", contract={})
    assert found.before.ece > 0.1
    assert found.after.ece < 0.03
    assert found.after.brier < found.before.brier
    assert found.after.nll < found.before.nll
    p = found.probability([[-1.0, 0.0], [1.0, 2.0]])
    assert p == pytest.approx(expit(np.array([[-5.0, -3.0], [-1.0, 1.0]])), abs=0.08)


def test_a_query_is_assessed_by_a_map_that_never_saw_it() -> None:
    data = drawn()
    # were query 3 seen, its own would be predicted well
    odd = data.query == 3
    scores = np.where(odd, 50 + data.scores, data.scores)
    changed = JudgedScores(scores=scores, relevant=data.relevant & ~odd, query=data.query)
    same = cross_fitted(changed, "isotonic")
    assert (same[odd] > 0.9).all()
    seen = fit_isotonic(scores, changed.relevant)(scores[odd])
    assert seen.max() < 0.8 < same[odd].min()


def test_one_query_is_too_few() -> None:
    data = drawn()
    alone = JudgedScores(scores=data.scores, relevant=data.relevant, query=np.zeros(600, int))
    with pytest.raises(DataError, match="one judged query"):
        calibrate(alone, "platt", revision="r", contract={})
    with pytest.raises(ConfigError, match="did you mean 'platt'"):
        calibrate(data, "plat", revision="r", contract={})


@pytest.mark.parametrize("kind", KINDS)
def test_written_then_read_is_the_same(kind: str, tmp_path: Path) -> None:
    made = fitted(kind, fitted_on={"collection": "c", "split": "dev"})
    path = made.save(tmp_path)
    assert path.name == CALIBRATION_FILE
    for place in (path, tmp_path):
        read = Calibration.load(place)
        assert read == made
        assert read.fitted_on["queries"] == 30
        scores = np.linspace(-9, 9, 50)
        assert read.probability(scores).tolist() == made.probability(scores).tolist()


def test_a_map_is_for_its_model_alone() -> None:
    made = fitted()
    made.require(CONTRACT | {"dtype": "float32", "name": "other"}, model="m")
    with pytest.raises(ContractMismatch, match=r"max_tokens.*calibrate again"):
        made.require(CONTRACT | {"max_tokens": 64}, model="m")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": "dear-calibration/9"}, "not of format"),
        ({"map": {"slope": -1.0, "bias": 0.0}}, "damaged: slope"),
        ({"map": {"slope": 1.0, "bias": math.nan}}, "damaged: slope 1.0, bias nan"),
        ({"map": {"slope": math.inf, "bias": 0.0}}, "damaged: slope inf"),
        ({"map": {"slope": math.nan, "bias": 0.0}}, "damaged: slope nan"),
        ({"map": {"slope": 1.0, "bias": -math.inf}}, "bias -inf"),
        ({"map": {"scores": [0, math.nan], "probabilities": [0.1, 0.9]}}, "curve falls"),
        ({"map": {"scores": [0, 1], "probabilities": [0.1, math.nan]}}, "curve falls"),
        ({"map": {"slope": 1.0}}, "damaged"),
        ({"map": {"scores": [0, 1], "probabilities": [0.9, 0.1]}}, "curve falls"),
        ({"map": {"scores": [1, 0], "probabilities": [0.1, 0.9]}}, "curve falls"),
        ({"map": {"scores": [0], "probabilities": [0.1, 0.9]}}, "1 scores, 2"),
        ({"before": {"ece": 1}}, "damaged"),
    ],
)
def test_a_damaged_map_is_one_line(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    path = fitted().save(tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DataError, match=said) as error:
        Calibration.load(tmp_path)
    assert "\n" not in str(error.value)


def test_maps_are_values() -> None:
    assert Logistic(1.0) == Logistic(1.0, 0.0)
    assert Isotonic((0.0, 1.0), (0.2, 0.4))(np.array([0.5])).tolist() == [pytest.approx(0.3)]
