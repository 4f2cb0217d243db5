"""Tests, intervals and effects of paired values: numbers in, numbers out.

Results depend on the values and the seed, not on the order of the pairs. scipy.stats has some of
these tests; benchmarks/significance.py measures both.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from dear.errors import ConfigError, DataError

Floats: TypeAlias = NDArray[np.float64]

# 2**16 sign patterns cost less than the default number of random ones, and give p exactly
_MAX_EXACT_PAIRS = 16
# differences drawn at once; bounds memory at some ten megabytes
_CHUNK_VALUES = 1 << 20
# a binomial count costs about as much as this many draws of a value
_DRAWS_OF_A_COUNT = 16
# relative; sums of the same numbers in another order differ by less
ROUNDING = 1e-12


def paired_randomisation(
    a: Sequence[float], b: Sequence[float], *, permutations: int = 100_000, seed: int = 0
) -> float:
    """Two-sided p of the sign-flip test on the mean difference (Smucker et al., CIKM 2007).

    a, b: one value a query, aligned. Up to 16 queries that differ, p is exact: all sign
    patterns are tried. Beyond, `permutations` random ones are, and the observed one is counted
    among them, so that p is never 0 (Phipson and Smyth 2010). DataError for unequal lengths,
    no queries, or a value that is not finite. scipy's permutation_test takes 33 (43 queries) to
    154 times as long (10,000).
    """
    if permutations < 1:
        raise ConfigError(f"permutations is {permutations}: it must be 1 or more")
    differences = subtracted(a, b)
    # flipping signs makes only magnitudes count; sorted, p does not depend on the query order
    magnitudes = np.sort(np.abs(differences[differences != 0]))
    if not len(magnitudes):
        return 1.0
    # |sum over flipped signs| = |total - 2 × (sum of what is flipped)|
    total = math.fsum(magnitudes)
    threshold = abs(math.fsum(differences)) - ROUNDING * total
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
    than two queries, unequal lengths, or a value that is not finite. The p of scipy's ttest_rel,
    without the 0.5 s that importing scipy.stats takes.
    """
    differences = subtracted(a, b)
    n = len(differences)
    if n < 2:
        raise DataError(f"the t test needs two queries at least, got {n}")
    largest = float(np.max(np.abs(differences)))
    if largest == 0:
        return 1.0
    if float(np.ptp(differences)) <= ROUNDING * largest:
        return 0.0
    from scipy.special import stdtr

    t = float(np.mean(differences)) / (float(np.std(differences, ddof=1)) / math.sqrt(n))
    return float(2 * stdtr(n - 1, -abs(t)))


def paired_effect(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Cohen's d_z: mean of a - b over its standard deviation (n - 1; Lakens 2013).

    0 where nothing differs; None where all differ alike: there is no deviation.
    DataError for fewer than two queries, unequal lengths, or a value that is not finite.
    """
    differences = subtracted(a, b)
    if len(differences) < 2:
        raise DataError(f"an effect size needs two queries at least, got {len(differences)}")
    largest = float(np.max(np.abs(differences)))
    if largest == 0:
        return 0.0
    if float(np.ptp(differences)) <= ROUNDING * largest:
        return None
    return float(np.mean(differences) / np.std(differences, ddof=1))


def holm(p_values: Sequence[float]) -> list[float]:
    """p values corrected for being several (Holm 1979), in the order given; each at most 1.

    DataError for a value outside [0, 1]. scipy.stats has no Holm correction.
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
    DataError for no differences or one that is not finite. scipy's bootstrap takes 1.4 to 2.3
    times as long.
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


def subtracted(a: Sequence[float], b: Sequence[float]) -> Floats:
    """float64 (n,): a - b. DataError: no values, not as many, or one that is not finite."""
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
