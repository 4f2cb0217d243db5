"""Is one run better than another, or only luckier with its queries?

Everything here is paired: the same queries under both runs. Results depend on the values and
the seed, not on the order of the queries.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from dear.errors import ConfigError, DataError, nearest
from dear.evaluate.metrics import Evaluation, parse_measures

Floats: TypeAlias = NDArray[np.float64]

# 2**16 sign patterns cost less than the default number of random ones, and give p exactly
_MAX_EXACT_PAIRS = 16
# differences drawn at once; bounds memory at some ten megabytes
_CHUNK_VALUES = 1 << 20
# a binomial count costs about as much as this many draws of a value
_DRAWS_OF_A_COUNT = 16
# relative; sums of the same numbers in another order differ by less
_ROUNDING = 1e-12


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Run a against run b under one measure, query by query.

    difference: mean of a - b, with its bootstrap `interval` (low, high).
    p_randomisation, p_t: two-sided.  wins, ties, losses: queries where a is above, level with,
    below b; together n.  effect: Cohen's d for paired values, the mean difference in standard
    deviations of the difference; 0 where nothing differs, None where all differ alike.
    """

    measure: str
    mean_a: float
    mean_b: float
    difference: float
    interval: tuple[float, float]
    p_randomisation: float
    p_t: float
    wins: int
    ties: int
    losses: int
    n: int
    effect: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class PairwiseComparison:
    """One pair out of several runs.

    holm_randomisation, holm_t: the comparison's p values, corrected for the number of pairs.
    """

    a: str
    b: str
    comparison: Comparison
    holm_randomisation: float
    holm_t: float


def paired_randomisation(
    a: Sequence[float], b: Sequence[float], *, permutations: int = 100_000, seed: int = 0
) -> float:
    """Two-sided p of the sign-flip test on the mean difference (Smucker et al., CIKM 2007).

    a, b: one value a query, aligned. Up to 16 queries that differ, p is exact: all sign
    patterns are tried. Beyond, `permutations` random ones are, and the observed one is counted
    among them, so that p is never 0 (Phipson and Smyth 2010). DataError for unequal lengths,
    no queries, or a value that is not finite.
    """
    if permutations < 1:
        raise ConfigError(f"permutations is {permutations}: it must be 1 or more")
    differences = _differences(a, b)
    # flipping signs makes only magnitudes count; sorted, p does not depend on the query order
    magnitudes = np.sort(np.abs(differences[differences != 0]))
    if not len(magnitudes):
        return 1.0
    # |sum over flipped signs| = |total - 2 × (sum of what is flipped)|
    total = math.fsum(magnitudes)
    threshold = abs(math.fsum(differences)) - _ROUNDING * total
    if len(magnitudes) <= _MAX_EXACT_PAIRS:
        patterns = np.arange(1 << len(magnitudes), dtype="<u2").view(np.uint8).reshape(-1, 2)
        extreme = _count_extreme(magnitudes, patterns, total, threshold)
        return extreme / len(patterns)
    chunks = _random_patterns(len(magnitudes), permutations, seed)
    extreme = sum(_count_extreme(magnitudes, chunk, total, threshold) for chunk in chunks)
    return (extreme + 1) / (permutations + 1)


def _random_patterns(pairs: int, count: int, seed: int) -> Iterator[NDArray[np.uint8]]:
    """`count` rows of random bits, at least `pairs` bits a row, in memory-bounded chunks."""
    generator = np.random.default_rng(seed)
    width = math.ceil(pairs / 8)
    for rows in _chunks(count, _CHUNK_VALUES // width):
        yield generator.integers(0, 256, size=(rows, width), dtype=np.uint8)


def _count_extreme(
    magnitudes: Floats, patterns: NDArray[np.uint8], total: float, threshold: float
) -> int:
    """Number of patterns (rows of packed bits: 1 = flipped) with |sum| at or above threshold."""
    width = patterns.shape[1]
    padded = np.zeros(8 * width)
    padded[: len(magnitudes)] = magnitudes
    # little: bit i of a pattern belongs to magnitude i, so that 2**n patterns enumerate n bits
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
    # one table for each eight queries: byte → sum of what its bits flip
    tables = padded.reshape(width, 8) @ bits.T.astype(np.float64)
    flipped = np.zeros(len(patterns))
    for table, column in zip(tables, patterns.T, strict=True):
        flipped += table[column]
    return int(np.count_nonzero(np.abs(total - 2 * flipped) >= threshold))


def paired_t(a: Sequence[float], b: Sequence[float]) -> float:
    """Two-sided p of Student's paired t test.

    No difference at all gives 1, the same nonzero difference everywhere 0. DataError for fewer
    than two queries, unequal lengths, or a value that is not finite.
    """
    differences = _differences(a, b)
    n = len(differences)
    if n < 2:
        raise DataError(f"the t test needs two queries at least, got {n}")
    largest = float(np.max(np.abs(differences)))
    if largest == 0:
        return 1.0
    if float(np.ptp(differences)) <= _ROUNDING * largest:
        return 0.0
    from scipy.special import stdtr

    t = float(np.mean(differences)) / (float(np.std(differences, ddof=1)) / math.sqrt(n))
    return float(2 * stdtr(n - 1, -abs(t)))


def paired_effect(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Cohen's d_z: mean of a - b over its standard deviation (n - 1; Lakens 2013).

    0 where nothing differs; None where all differ alike: there is no deviation.
    DataError for fewer than two queries, unequal lengths, or a value that is not finite.
    """
    differences = _differences(a, b)
    if len(differences) < 2:
        raise DataError(f"an effect size needs two queries at least, got {len(differences)}")
    largest = float(np.max(np.abs(differences)))
    if largest == 0:
        return 0.0
    if float(np.ptp(differences)) <= _ROUNDING * largest:
        return None
    return float(np.mean(differences) / np.std(differences, ddof=1))


def holm(p_values: Sequence[float]) -> list[float]:
    """p values corrected for being several (Holm 1979), in the order given; each at most 1.

    DataError for a value outside [0, 1].
    """
    for p in p_values:
        if not 0 <= p <= 1:
            raise DataError(f"{p} is no p value: it must lie between 0 and 1")
    count = len(p_values)
    adjusted = [0.0] * count
    highest = 0.0
    for rank, index in enumerate(sorted(range(count), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (count - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def bootstrap_interval(
    differences: Sequence[float], *, level: float = 0.95, samples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """(low, high) of the mean difference: percentile bootstrap over queries (Efron 1979).

    level: the share of resampled means between low and high, in (0, 1).
    DataError for no differences or one that is not finite.
    """
    if not 0 < level < 1:
        raise ConfigError(f"level is {level}: it must lie between 0 and 1")
    if samples < 1:
        raise ConfigError(f"samples is {samples}: it must be 1 or more")
    values = np.sort(_finite(differences))
    generator = np.random.default_rng(seed)
    means = _resampled_means(values, samples, generator)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _resampled_means(values: Floats, samples: int, generator: np.random.Generator) -> Floats:
    """(samples,): each the mean of as many draws, with replacement, as there are values (n,)."""
    n = len(values)
    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) * _DRAWS_OF_A_COUNT <= n:  # how often each is drawn says all
        return np.concatenate(
            [
                generator.multinomial(n, counts / n, size=size) @ distinct / n
                for size in _chunks(samples, _CHUNK_VALUES // len(distinct))
            ]
        )
    return np.concatenate(
        [
            values[generator.integers(0, n, size=(size, n))].mean(axis=1)
            for size in _chunks(samples, _CHUNK_VALUES // n)
        ]
    )


def _chunks(total: int, most: int) -> Iterator[int]:
    """Sizes of at most `most`, and of 1 at least, that add up to `total`."""
    size = max(1, most)
    for start in range(0, total, size):
        yield min(size, total - start)


def compare(
    a: Evaluation,
    b: Evaluation,
    measure: str,
    *,
    level: float = 0.95,
    permutations: int = 100_000,
    samples: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """Run a against run b; a positive difference speaks for a.

    DataError if the two were evaluated over different queries, or over fewer than two;
    ConfigError if one lacks the measure.
    """
    measure = _known_measure(a, measure)
    values_a, values_b = _paired_values(a, b, measure)
    differences = _differences(values_a, values_b)
    wins = int(np.count_nonzero(differences > _ROUNDING))
    losses = int(np.count_nonzero(differences < -_ROUNDING))
    n = len(differences)
    return Comparison(
        measure=measure,
        mean_a=math.fsum(values_a) / n,
        mean_b=math.fsum(values_b) / n,
        difference=math.fsum(differences) / n,
        interval=bootstrap_interval(differences.tolist(), level=level, samples=samples, seed=seed),
        p_randomisation=paired_randomisation(
            values_a, values_b, permutations=permutations, seed=seed
        ),
        p_t=paired_t(values_a, values_b),
        wins=wins,
        ties=n - wins - losses,
        losses=losses,
        n=n,
        effect=paired_effect(values_a, values_b),
    )


def compare_all(
    evaluations: Mapping[str, Evaluation],
    measure: str,
    *,
    level: float = 0.95,
    permutations: int = 100_000,
    samples: int = 10_000,
    seed: int = 0,
) -> list[PairwiseComparison]:
    """Every pair of runs, in the mapping's order, with p values corrected over all the pairs.

    evaluations: run name → evaluation. Raises what `compare` raises.
    """
    return compare_pairs(
        evaluations,
        list(itertools.combinations(evaluations, 2)),
        measure,
        level=level,
        permutations=permutations,
        samples=samples,
        seed=seed,
    )


def compare_pairs(
    evaluations: Mapping[str, Evaluation],
    pairs: Sequence[tuple[str, str]],
    measure: str,
    *,
    level: float = 0.95,
    permutations: int = 100_000,
    samples: int = 10_000,
    seed: int = 0,
) -> list[PairwiseComparison]:
    """These pairs of runs (a, b), with p values corrected over them alone.

    Raises what `compare` raises.
    """
    comparisons = [
        compare(
            evaluations[a],
            evaluations[b],
            measure,
            level=level,
            permutations=permutations,
            samples=samples,
            seed=seed,
        )
        for a, b in pairs
    ]
    by_randomisation = holm([comparison.p_randomisation for comparison in comparisons])
    by_t = holm([comparison.p_t for comparison in comparisons])
    return [
        PairwiseComparison(a=a, b=b, comparison=c, holm_randomisation=p, holm_t=q)
        for (a, b), c, p, q in zip(pairs, comparisons, by_randomisation, by_t, strict=True)
    ]


def pool(evaluations: Mapping[str, Evaluation]) -> Evaluation:
    """One run's evaluations over several collections as one; `COLLECTION/QUERY` names a query.

    evaluations: collection → evaluation of the same run. Only measures that all of them have
    are kept. Every query weighs the same, so a large collection weighs more. DataError if there
    is nothing to pool, or if two collections yield the same pooled query id.
    """
    shared = [
        measure
        for measure in next(iter(evaluations.values()), Evaluation.of({})).per_query
        if all(measure in evaluation.per_query for evaluation in evaluations.values())
    ]
    if not shared:
        raise DataError(f"nothing to pool: no measure is shared by {list(evaluations)}")
    pooled: dict[str, dict[str, float]] = {measure: {} for measure in shared}
    for collection, evaluation in evaluations.items():
        for measure in shared:
            for query_id, value in evaluation.per_query[measure].items():
                pooled_id = f"{collection}/{query_id}"
                if pooled_id in pooled[measure]:
                    raise DataError(f"two collections yield the query {pooled_id!r}: rename one")
                pooled[measure][pooled_id] = value
    return Evaluation.of(
        pooled,
        missing=tuple(f"{c}/{q}" for c, e in evaluations.items() for q in e.missing),
        unjudged=sum(evaluation.unjudged for evaluation in evaluations.values()),
    )


def _paired_values(a: Evaluation, b: Evaluation, measure: str) -> tuple[list[float], list[float]]:
    """The values of both, query by query in a's order."""
    by_query_a = a.per_query[measure]
    by_query_b = b.per_query[_known_measure(b, measure)]
    odd = sorted(by_query_a.keys() ^ by_query_b.keys())
    if odd:
        raise DataError(
            f"query {odd[0]!r} is in one evaluation only ({len(odd)} such in all): "
            "evaluate both runs over the same judgements"
        )
    return list(by_query_a.values()), [by_query_b[query_id] for query_id in by_query_a]


def _known_measure(evaluation: Evaluation, measure: str) -> str:
    """The name under which `evaluation` holds the measure, which may come in any spelling."""
    if measure in evaluation.per_query:
        return measure
    (parsed,) = parse_measures([measure])
    if parsed.name not in evaluation.per_query:
        known = nearest(parsed.name, evaluation.per_query)
        raise ConfigError(f"measure {measure!r} was not evaluated{known}")
    return parsed.name


def _differences(a: Sequence[float], b: Sequence[float]) -> Floats:
    if len(a) != len(b):
        raise DataError(f"{len(a)} values against {len(b)}: the tests pair them query by query")
    return _finite(a) - _finite(b)


def _finite(values: Sequence[float]) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if not len(array):
        raise DataError("no queries to compare")
    if not np.isfinite(array).all():
        position = int(np.flatnonzero(~np.isfinite(array))[0])
        raise DataError(f"the value at position {position} is {array[position]}: it must be finite")
    return array
