"""Paired tests of dear.evaluate.paired against scipy.stats: the same result, and in what time?

    python benchmarks/significance.py [--queries 43 10000] [--resamples 2000] [--output FILE]

For each number of queries: values of two made-up runs, a third of them equal. Both sides draw
--resamples sign patterns and bootstrap samples; up to 16 queries the randomisation test is exact.
"import" is what scipy.stats costs a process that has scipy.special already.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from dear.artifacts import write_json
from dear.bench.machine import describe
from dear.evaluate.paired import bootstrap_interval, paired_randomisation, paired_t

ROUNDS = 3


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """(result, seconds of the fastest of ROUNDS)."""
    taken = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        found = work()
        taken.append(time.perf_counter() - started)
    return found, min(taken)


def difference_of_means(a: Any, b: Any, axis: int) -> Any:
    return np.mean(a - b, axis=axis)


def compare(queries: int, resamples: int) -> dict[str, Any]:
    generator = np.random.default_rng(queries)
    a = generator.beta(2, 2, queries)
    b = np.where(generator.random(queries) < 1 / 3, a, generator.beta(2, 2.02, queries))
    batch = max(1, (1 << 20) // queries)
    pairs: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
        "t test": (lambda: paired_t(a, b), lambda: float(stats.ttest_rel(a, b).pvalue)),
        "randomisation": (
            lambda: paired_randomisation(a, b, permutations=resamples),
            lambda: float(
                stats.permutation_test(
                    (a, b),
                    difference_of_means,
                    permutation_type="samples",
                    vectorized=True,
                    n_resamples=np.inf if queries <= 16 else resamples,
                    batch=batch,
                    rng=0,
                ).pvalue
            ),
        ),
        "bootstrap": (
            lambda: bootstrap_interval(a - b, samples=resamples),
            lambda: tuple(
                map(
                    float,
                    stats.bootstrap(
                        (a - b,),
                        np.mean,
                        method="percentile",
                        vectorized=True,
                        n_resamples=resamples,
                        batch=batch,
                        rng=0,
                    ).confidence_interval,
                )
            ),
        ),
    }
    found = {}
    for name, (ours, theirs) in pairs.items():
        (mine, seconds), (other, longer) = timed(ours), timed(theirs)
        found[name] = {
            "ours": mine,
            "scipy": other,
            "ours_ms": round(1000 * seconds, 3),
            "scipy_ms": round(1000 * longer, 3),
            "scipy_times_ours": round(longer / seconds, 1),
        }
    return found


def import_seconds() -> float:
    code = "import numpy, scipy.special, time; t = time.perf_counter(); import scipy.stats; "
    code += "print(time.perf_counter() - t)"
    command = [sys.executable, "-c", code]
    return min(float(subprocess.check_output(command)) for _ in range(ROUNDS))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--queries", type=int, nargs="+", default=[16, 43, 10_000])
    parser.add_argument("--resamples", type=int, default=2000)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/significance.json"))
    options = parser.parse_args()
    found = {
        "machine": describe("cpu", ("numpy", "scipy")),
        "resamples": options.resamples,
        "import_scipy_stats_ms": round(1000 * import_seconds()),
        "queries": {str(n): compare(n, options.resamples) for n in options.queries},
    }
    write_json(options.output, found)
    for queries, tests in found["queries"].items():
        for name, row in tests.items():
            print(f"{queries:>7} queries, {name}: {row}")


if __name__ == "__main__":
    main()
