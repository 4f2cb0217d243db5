"""Paired tests against scipy, against brute force, and against what they promise."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dear.errors import ConfigError, DataError
from dear.evaluate.compare import compare, compare_all, compare_pairs, pool
from dear.evaluate.metrics import Evaluation
from dear.evaluate.paired import (
    bootstrap_interval,
    holm,
    paired_effect,
    paired_randomisation,
    paired_t,
)

# a grid: like nDCG over few judgements, it has ties and zero differences
VALUES = st.integers(0, 20).map(lambda n: n / 20)
P_VALUES = st.lists(st.floats(0, 1), max_size=12)


def pairs(max_size: int) -> st.SearchStrategy[list[tuple[float, float]]]:
    return st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=max_size)


def brute_force(a: list[float], b: list[float]) -> float:
    differences = np.subtract(a, b)
    signs = np.array(list(itertools.product((1, -1), repeat=len(differences))))
    sums = np.abs(signs @ differences)
    return float(np.mean(sums >= abs(differences.sum()) - 1e-9))


def evaluation(**per_query: float) -> Evaluation:
    return Evaluation.of({"MAP": per_query})


def drawn(n: int, *, gap: float = 0.0, seed: int = 0) -> tuple[list[float], list[float]]:
    generator = np.random.default_rng(seed)
    return (generator.random(n) + gap).tolist(), generator.random(n).tolist()


# ---- the randomisation test


@settings(deadline=None)
@given(pairs(max_size=8))
def test_few_queries_give_the_p_of_all_sign_patterns(values):
    a, b = map(list, zip(*values, strict=True))
    assert paired_randomisation(a, b) == pytest.approx(brute_force(a, b), abs=1e-12)


def test_agrees_with_scipy_exactly_where_both_enumerate():
    from scipy.stats import permutation_test

    for seed in range(4):
        a, b = drawn(11, gap=0.1, seed=seed)
        oracle = permutation_test(
            (a, b),
            lambda x, y, axis: np.mean(x - y, axis=axis),
            permutation_type="samples",
            n_resamples=np.inf,
            vectorized=True,
        )
        assert paired_randomisation(a, b) == pytest.approx(oracle.pvalue, abs=1e-12)


@pytest.mark.parametrize("n", [17, 18])
def test_many_queries_come_within_monte_carlo_error_of_the_exact_p(n):
    a, b = drawn(n, gap=0.15, seed=n)
    exact = brute_force(a, b)
    draws = 50_000
    error = math.sqrt(exact * (1 - exact) / draws)
    assert abs(paired_randomisation(a, b, permutations=draws) - exact) < 5 * error


def test_only_queries_that_differ_count_towards_enumeration():
    a, b = drawn(10, gap=0.2)
    same = [0.5] * 500
    assert paired_randomisation(a + same, b + same) == paired_randomisation(a, b)


@settings(deadline=None)
@given(pairs(max_size=24), st.randoms())
def test_p_is_a_probability_that_swapping_and_shuffling_leave_alone(values, random):
    a, b = map(list, zip(*values, strict=True))
    p = paired_randomisation(a, b, permutations=500)
    assert 0 < p <= 1
    assert paired_randomisation(b, a, permutations=500) == p
    random.shuffle(values)
    a, b = map(list, zip(*values, strict=True))
    assert paired_randomisation(a, b, permutations=500) == p


def test_it_rejects_a_true_null_no_more_often_than_promised():
    # over all sign patterns of the same magnitudes, P(p ≤ α) ≤ α for every α
    magnitudes = np.array([0.1, 0.1, 0.25, 0.3, 0.4, 0.55, 0.7, 1.0])
    zeros = [0.0] * len(magnitudes)
    p_values = np.array(
        [
            paired_randomisation((magnitudes * signs).tolist(), zeros)
            for signs in itertools.product((1, -1), repeat=len(magnitudes))
        ]
    )
    for alpha in np.unique(p_values):
        assert np.mean(p_values <= alpha + 1e-12) <= alpha + 1e-12
    assert p_values.min() == 2 / 2**8


def test_equal_runs_are_indistinguishable():
    assert paired_randomisation([0.3, 0.4], [0.3, 0.4]) == 1.0


def test_p_never_reaches_zero_however_large_the_effect():
    a, b = drawn(200, gap=5.0)
    assert paired_randomisation(a, b, permutations=999) == 1 / 1000


def test_the_seed_decides_and_chunks_only_bound_memory(monkeypatch):
    a, b = drawn(40, gap=0.08)
    p = paired_randomisation(a, b, permutations=3000, seed=3)
    assert paired_randomisation(a, b, permutations=3000, seed=3) == p
    others = {paired_randomisation(a, b, permutations=3000, seed=s) for s in range(4, 10)}
    assert len(others) > 1
    monkeypatch.setattr("dear.evaluate.paired._CHUNK_VALUES", 4096)
    chunked = paired_randomisation(a, b, permutations=3000, seed=3)
    assert abs(chunked - p) < 5 * math.sqrt(p * (1 - p) / 3000) + 1e-9


# ---- the t test


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=30))
def test_t_agrees_with_scipy(values):
    from scipy.stats import ttest_rel

    a, b = map(np.array, zip(*values, strict=True))
    differences = a - b
    if np.ptp(differences) <= 1e-9:
        return  # scipy divides by zero here; the next two tests say what we do
    assert paired_t(a, b) == pytest.approx(ttest_rel(a, b).pvalue, rel=1e-9, abs=1e-300)


def test_t_of_no_difference_is_one():
    assert paired_t([0.1, 0.2, 0.3], [0.1, 0.2, 0.3]) == 1.0


@pytest.mark.parametrize("sign", [1, -1])
def test_t_of_a_constant_difference_is_zero(sign):
    # 0.1 is no binary fraction, so the differences are not quite the same number
    a = np.array([0.3, 0.4, 0.7, 0.9])
    assert paired_t(a, a + sign * 0.1) == 0.0


def test_t_needs_two_queries():
    with pytest.raises(DataError, match="two queries at least, got 1"):
        paired_t([0.1], [0.2])


# ---- the effect size


@settings(deadline=None)
@given(pairs(max_size=30).filter(lambda values: len(values) > 1))
def test_the_effect_is_the_t_statistic_over_the_root_of_n(values):
    from scipy.stats import ttest_rel

    a, b = map(np.array, zip(*values, strict=True))
    effect = paired_effect(a, b)
    if np.ptp(a - b) <= 1e-9:
        assert effect == (None if abs(a - b).max() > 1e-9 else 0.0)
        return
    # d_z = t / sqrt(n)
    assert effect == pytest.approx(ttest_rel(a, b).statistic / math.sqrt(len(a)), rel=1e-9)
    assert paired_effect(b, a) == pytest.approx(-effect)
    # in standard deviations: no unit
    assert paired_effect(3 * a, 3 * b) == pytest.approx(effect)


def test_an_effect_needs_two_queries():
    with pytest.raises(DataError, match="two queries at least, got 1"):
        paired_effect([0.1], [0.2])


@pytest.mark.parametrize("test", [paired_randomisation, paired_t, paired_effect])
def test_values_must_pair_and_be_finite(test):
    with pytest.raises(DataError, match="2 values against 3"):
        test([0.1, 0.2], [0.1, 0.2, 0.3])
    for bad in (math.nan, math.inf, -math.inf):
        for pair in ([0.1, bad], [0.1, 0.2]), ([0.1, 0.2], [0.1, bad]):
            with pytest.raises(DataError, match=f"position 1 is {bad}"):
                test(*pair)
    with pytest.raises(DataError, match="no queries"):
        test([], [])


# ---- Holm


@given(P_VALUES)
def test_holm_raises_p_values_keeps_their_order_and_stays_below_one(p_values):
    adjusted = holm(p_values)
    assert len(adjusted) == len(p_values)
    assert all(raw <= corrected <= 1 for raw, corrected in zip(p_values, adjusted, strict=True))
    by_raw = [corrected for _, corrected in sorted(zip(p_values, adjusted, strict=True))]
    assert by_raw == sorted(by_raw)


@given(P_VALUES, st.floats(0.001, 0.999))
def test_holm_rejects_what_the_step_down_procedure_rejects(p_values, alpha):
    rejected = set()
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if (len(p_values) - rank) * p_values[index] > alpha:
            break
        rejected.add(index)
    assert {i for i, p in enumerate(holm(p_values)) if p <= alpha} == rejected


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]


@pytest.mark.parametrize("p", [-0.1, 1.1, math.nan])
def test_holm_takes_p_values_only(p):
    with pytest.raises(DataError, match="no p value"):
        holm([0.5, p])


# ---- the bootstrap


def test_bootstrap_agrees_with_scipy():
    from scipy.stats import bootstrap

    differences = np.random.default_rng(5).normal(0.05, 0.2, 80)
    oracle = bootstrap(
        (differences,), np.mean, n_resamples=20_000, method="percentile", rng=1
    ).confidence_interval
    low, high = bootstrap_interval(differences, samples=20_000)
    # two Monte Carlo estimates of a quantile of a normal with this standard error
    tolerance = 6 * 0.2 / math.sqrt(80) * 0.02
    assert low == pytest.approx(oracle.low, abs=tolerance)
    assert high == pytest.approx(oracle.high, abs=tolerance)


def test_few_values_among_many_queries_agree_with_scipy_too():
    from scipy.stats import bootstrap

    # reciprocal ranks: drawn as counts
    values = np.random.default_rng(6).choice(
        [0.0, 0.25, 0.5, 1.0], size=400, p=[0.3, 0.2, 0.2, 0.3]
    )
    oracle = bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=1
    ).confidence_interval
    low, high = bootstrap_interval(values, samples=20_000)
    tolerance = 6 * values.std() / math.sqrt(400) * 0.02
    assert low == pytest.approx(oracle.low, abs=tolerance)
    assert high == pytest.approx(oracle.high, abs=tolerance)
    assert bootstrap_interval(np.sort(values)[::-1], samples=20_000) == (low, high)
    assert bootstrap_interval([0.25] * 100) == pytest.approx((0.25, 0.25), abs=1e-12)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.floats(-1, 1), min_size=1, max_size=30), st.randoms())
def test_the_interval_lies_within_the_values_grows_with_the_level_and_has_no_order(values, random):
    low, high = bootstrap_interval(values, samples=200)
    assert min(values) - 1e-12 <= low <= high <= max(values) + 1e-12
    wide_low, wide_high = bootstrap_interval(values, level=0.99, samples=200)
    assert wide_low <= low
    assert high <= wide_high
    random.shuffle(values)
    assert bootstrap_interval(values, samples=200) == (low, high)


def test_the_interval_covers_about_as_often_as_it_says():
    generator = np.random.default_rng(11)
    covered = 0
    for trial in range(200):
        low, high = bootstrap_interval(generator.normal(0.1, 1.0, 60), samples=500, seed=trial)
        covered += low <= 0.1 <= high
    assert 0.88 <= covered / 200 <= 0.99


@pytest.mark.parametrize("level", [0, 1, 1.5, -0.1])
def test_the_level_is_a_proper_share(level):
    with pytest.raises(ConfigError, match="level is"):
        bootstrap_interval([0.1], level=level)


@pytest.mark.parametrize("count", [0, -1])
def test_something_must_be_drawn(count):
    with pytest.raises(ConfigError, match="samples is"):
        bootstrap_interval([0.1], samples=count)
    with pytest.raises(ConfigError, match="permutations is"):
        paired_randomisation([0.1], [0.2], permutations=count)


# ---- evaluations


@settings(deadline=None, max_examples=40)
@given(pairs(max_size=20).filter(lambda values: len(values) > 1))
def test_a_comparison_mirrors_when_its_runs_are_swapped(values):
    queries = [f"q{i}" for i in range(len(values))]
    a = Evaluation.of({"MAP": {q: x for q, (x, _) in zip(queries, values, strict=True)}})
    # another query order: queries pair by id
    reversed_b = list(zip(queries, values, strict=True))[::-1]
    b = Evaluation.of({"MAP": {q: y for q, (_, y) in reversed_b}})
    there = compare(a, b, "MAP", permutations=500, samples=200)
    back = compare(b, a, "map", permutations=500, samples=200)
    assert there.difference == pytest.approx(a.means["MAP"] - b.means["MAP"], abs=1e-12)
    assert back.difference == -there.difference
    assert (there.mean_a, there.mean_b) == (a.means["MAP"], b.means["MAP"])
    assert (there.wins, there.ties, there.losses) == (back.losses, back.ties, back.wins)
    assert there.wins == sum(x > y for x, y in values)
    assert there.wins + there.ties + there.losses == there.n == len(values)
    assert there.p_randomisation == back.p_randomisation
    assert there.p_t == pytest.approx(back.p_t)
    assert there.measure == back.measure == "MAP"
    assert there.effect == paired_effect(*map(list, zip(*values, strict=True)))
    assert there.interval[0] - 1e-12 <= there.interval[1]


def test_different_queries_cannot_be_compared():
    with pytest.raises(DataError, match="query 'q3' is in one evaluation only"):
        compare(evaluation(q1=0.1, q2=0.2), evaluation(q1=0.1, q2=0.2, q3=0.3), "MAP")


def test_a_measure_must_have_been_evaluated():
    two = evaluation(q1=0.1, q2=0.2)
    with pytest.raises(ConfigError, match="'MAP@5' was not evaluated; did you mean 'MAP'"):
        compare(two, two, "MAP@5")
    with pytest.raises(ConfigError, match="unknown measure"):
        compare(two, two, "nothing")
    other = Evaluation.of({"R@10": {"q1": 0.1, "q2": 0.2}})
    with pytest.raises(ConfigError, match="was not evaluated"):
        compare(two, other, "MAP")


def test_all_pairs_come_in_order_with_p_values_corrected_together():
    runs = {
        name: evaluation(**{f"q{i}": v for i, v in enumerate(drawn(12, gap=gap, seed=seed)[0])})
        for seed, (name, gap) in enumerate({"x": 0.0, "y": 0.3, "z": 1.5}.items())
    }
    found = compare_all(runs, "MAP")
    assert [(pair.a, pair.b) for pair in found] == [("x", "y"), ("x", "z"), ("y", "z")]
    for pair in found:
        assert pair.comparison == compare(runs[pair.a], runs[pair.b], "MAP")
    raw = [pair.comparison.p_randomisation for pair in found]
    assert [pair.holm_randomisation for pair in found] == holm(raw)
    assert [pair.holm_t for pair in found] == holm([pair.comparison.p_t for pair in found])
    assert compare_all({"alone": runs["x"]}, "MAP") == []


def test_chosen_pairs_are_corrected_over_themselves_alone():
    runs = {
        name: evaluation(**{f"q{i}": v for i, v in enumerate(drawn(12, gap=gap, seed=seed)[0])})
        for seed, (name, gap) in enumerate({"x": 0.0, "y": 0.2, "z": 0.3}.items())
    }
    found = compare_pairs(runs, [("z", "x"), ("y", "x")], "MAP")
    assert [(pair.a, pair.b) for pair in found] == [("z", "x"), ("y", "x")]
    assert [pair.comparison for pair in found] == [
        compare(runs[name], runs["x"], "MAP") for name in ("z", "y")
    ]
    assert [p.holm_t for p in found] == holm([p.comparison.p_t for p in found])
    (alone,) = compare_pairs(runs, [("z", "x")], "MAP")
    assert alone.holm_t == alone.comparison.p_t
    assert alone.holm_randomisation == alone.comparison.p_randomisation
    assert compare_pairs(runs, [], "MAP") == []


def test_a_pool_holds_every_query_of_every_collection_once():
    small = Evaluation.of({"MAP": {"1": 1.0}, "R@5": {"1": 0.5}}, missing=("1",), unjudged=2)
    large = Evaluation.of({"MAP": {"1": 0.0, "2": 0.5, "3": 0.5}}, missing=("1",), unjudged=3)
    pooled = pool({"small": small, "large": large})
    assert pooled.per_query == {
        "MAP": {"small/1": 1.0, "large/1": 0.0, "large/2": 0.5, "large/3": 0.5}
    }
    assert pooled.means == {"MAP": 0.5}
    assert pooled.missing == ("small/1", "large/1")
    assert pooled.unjudged == 5
    assert compare(pooled, pooled, "MAP").ties == 4


def test_a_pool_needs_a_shared_measure_and_distinct_queries():
    with pytest.raises(DataError, match="nothing to pool"):
        pool({})
    with pytest.raises(DataError, match="no measure is shared"):
        pool({"a": evaluation(q=0.1), "b": Evaluation.of({"R@5": {"q": 0.1}})})
    with pytest.raises(DataError, match="'a/b/c'"):
        pool({"a": Evaluation.of({"MAP": {"b/c": 0.1}}), "a/b": evaluation(c=0.1)})
