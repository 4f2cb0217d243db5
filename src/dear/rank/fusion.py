"""Adding the first stage's score to a reranker's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from dear.data.z_scores import z_scores
from dear.errors import ConfigError, DataError
from dear.evaluate.metrics import evaluate
from dear.records import Judgements, Ranking, Run

WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
"""The weights that `best_weight` tries."""


def fuse(
    scores: Sequence[float] | NDArray[np.float32],
    first: Sequence[float] | NDArray[np.float32],
    weight: float,
) -> NDArray[np.float64]:
    """(n,) fused scores of one query: z(scores) + weight * z(first).

    z brings a query's scores to mean 0 and standard deviation 1, and to 0 where they are all the
    same. weight 0 keeps the reranker's order. ConfigError for a weight below 0, DataError for
    scores that do not match or are not finite.
    """
    check_weight(weight)
    a, b = np.asarray(scores, dtype=np.float64), np.asarray(first, dtype=np.float64)
    if a.shape != b.shape:
        raise DataError(f"fuse: {a.size} scores, {b.size} of the first stage")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise DataError("fuse: a score is not finite")
    if not a.size:
        return a
    return z_scores(a) + weight * z_scores(b)


def _fused(ranking: Ranking, first: Sequence[float], weight: float) -> Ranking:
    """first: the scores of the ranking's first passages, or of all; what has none follows."""
    scored = len(first)
    found = fuse(ranking.scores[:scored], first, weight)
    order = np.argsort(-found, kind="stable").tolist()
    places = [*order, *range(scored, len(ranking))]
    lowest = float(found.min()) if scored else 0.0
    return replace(
        ranking,
        passage_ids=tuple(ranking.passage_ids[i] for i in places),
        scores=(*found[order].tolist(), *(lowest - 1 - i for i in range(len(ranking) - scored))),
        passages=tuple(ranking.passages[i] for i in places) if ranking.passages else (),
        positions=tuple(ranking.positions[i] for i in places) if ranking.positions else (),
        read=tuple(ranking.read[i] for i in places) if ranking.read else (),
    )


def check_weight(weight: float) -> None:
    """ConfigError for a weight that is no finite number from 0 on."""
    if not np.isfinite(weight) or weight < 0:
        raise ConfigError(f"fuse: the weight must be 0 or more, not {weight}")


def fuse_runs(reranked: Run, first: Run, weight: float) -> dict[str, Ranking]:
    """Every query of `reranked`, its scores fused with those of the first stage.

    Equal scores keep the reranker's order. DataError for a reranked query or passage that the
    first stage does not have.
    """
    return {
        query_id: _fuse_ranking(ranking, _scores(first, query_id), weight)
        for query_id, ranking in reranked.items()
    }


def best_weight(
    reranked: Run,
    first: Run,
    judgements: Judgements,
    weights: Iterable[float] = WEIGHTS,
    measure: str = "nDCG@10",
    *,
    finish: Callable[[Run], Run] | None = None,
) -> tuple[float, dict[float, float]]:
    """(the weight with the best mean, every weight's mean) on judged queries: use a dev set.

    The smallest of equally good weights is taken.  finish: what is done with a fused run before it
    is measured.
    """
    weights = sorted(set(weights))
    if not weights:
        raise ConfigError("best_weight: there is no weight to try")
    fused: dict[float, Run] = {w: fuse_runs(reranked, first, w) for w in weights}
    if finish is not None:
        fused = {w: finish(run) for w, run in fused.items()}
    means = {w: _mean(run, judgements, measure) for w, run in fused.items()}
    return max(means, key=lambda w: (means[w], -w)), means


def _mean(run: Run, judgements: Judgements, measure: str) -> float:
    # the one mean there is: its key is the measure's own spelling
    (mean,) = evaluate(run, judgements, (measure,)).means.values()
    return mean


def _scores(run: Run, query_id: str) -> Mapping[str, float]:
    ranking = run.get(query_id)
    if ranking is None:
        raise DataError(f"the first stage has no query {query_id!r}")
    return dict(zip(ranking.passage_ids, ranking.scores, strict=True))


def _fuse_ranking(ranking: Ranking, first: Mapping[str, float], weight: float) -> Ranking:
    lost = [p for p in ranking.passage_ids if p not in first]
    if lost:
        raise DataError(f"query {ranking.query_id!r}: the first stage has no passage {lost[0]!r}")
    return _fused(ranking, [first[p] for p in ranking.passage_ids], weight)
