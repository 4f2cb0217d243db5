"""Is one run better than another, or only luckier with its queries?

Everything here is paired: the same queries under both runs. Results depend on the values and
the seed, not on the order of the queries.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dear.errors import ConfigError, DataError, nearest
from dear.evaluate.metrics import Evaluation, parse_measures
from dear.evaluate.paired import (
    ROUNDING,
    bootstrap_interval,
    holm,
    paired_effect,
    paired_randomisation,
    paired_t,
    subtracted,
)


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
    found = subtracted(values_a, values_b)
    wins = int(np.count_nonzero(found > ROUNDING))
    losses = int(np.count_nonzero(found < -ROUNDING))
    n = len(found)
    return Comparison(
        measure=measure,
        mean_a=math.fsum(values_a) / n,
        mean_b=math.fsum(values_b) / n,
        difference=math.fsum(found) / n,
        interval=bootstrap_interval(found.tolist(), level=level, samples=samples, seed=seed),
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
