"""Several retrievers' runs as one: by reciprocal ranks, or by weighted scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from dear.data.z_scores import z_scores
from dear.digests import Input
from dear.errors import ConfigError, DataError
from dear.records import Query, Ranking, Run
from dear.retrieve.table import (
    Progress,
    Retriever,
    RetrieverSpec,
    Setting,
    open_retriever,
    require_top_k,
)

RRF_K = 60
"""Of reciprocal rank fusion, as Cormack et al. (2009) set it."""

DEPTH = 100
"""Passages that each part finds at least: what one has low, another may have high."""


class Hybrid:
    """Retrievers of one corpus, searched one after another and fused.

    weights: one for each part, for `weigh_scores`; None adds reciprocal ranks.
    """

    name = "hybrid"

    def __init__(self, parts: Sequence[Retriever], weights: Sequence[float] | None = None) -> None:
        self.parts, self.weights = tuple(parts), None if weights is None else tuple(weights)

    @property
    def inputs(self) -> Mapping[str, Input]:
        """Those of the parts, and how they are fused."""
        found = {
            f"{part.name} {kind}": given
            for part in self.parts
            for kind, given in part.inputs.items()
        }
        return {**found, "fusion": Input.of_values(self._fusion)}

    @property
    def values(self) -> Mapping[str, Any]:
        parts = {name: value for part in self.parts for name, value in part.values.items()}
        return {**parts, "fusion": self._fusion}

    @property
    def _fusion(self) -> dict[str, Any]:
        names = [part.name for part in self.parts]
        how: dict[str, Any] = {"rrf_k": RRF_K}
        if self.weights is not None:
            how = {"weights": list(self.weights), "scores": "of all parts"}
        return {"parts": names, "depth": DEPTH, **how}

    def search(
        self,
        queries: Mapping[str, Query],
        top_k: int = 100,
        *,
        progress: Progress | None = None,
    ) -> dict[str, Ranking]:
        """See `Retriever`."""
        return self.fused(queries, self.search_parts(queries, top_k, progress=progress), top_k)

    def score_passages(
        self, queries: Mapping[str, Query], passages: Mapping[str, Sequence[str]]
    ) -> dict[str, dict[str, float]]:
        """None: a fused score is relative to what was found with it."""
        raise ConfigError("a hybrid scores what it finds, no other passages")

    def search_parts(
        self,
        queries: Mapping[str, Query],
        top_k: int = 100,
        *,
        progress: Progress | None = None,
    ) -> dict[str, dict[str, Ranking]]:
        """Name of the part → its run, DEPTH passages deep or deeper."""
        require_top_k(self.name, top_k)
        runs = {}
        for done, part in enumerate(self.parts):
            report = _of_all(done, len(self.parts), progress)
            runs[part.name] = part.search(queries, max(top_k, DEPTH), progress=report)
        return runs

    def fused(
        self, queries: Mapping[str, Query], runs: Mapping[str, Run], top_k: int
    ) -> dict[str, Ranking]:
        """The parts' runs as one; weighted, every part scores what any of them found."""
        parts = [runs[part.name] for part in self.parts]
        if self.weights is None:
            return reciprocal_rank_fusion(parts, top_k)
        found = {
            query_id: list(dict.fromkeys(i for ranking in rankings for i in ranking.passage_ids))
            for query_id, rankings in _by_query(parts)
        }
        scored = [
            {
                query_id: Ranking.sorted(query_id, scores.keys(), scores.values())
                for query_id, scores in part.score_passages(queries, found).items()
            }
            for part in self.parts
        ]
        return weigh_scores(scored, self.weights, top_k)


def reciprocal_rank_fusion(
    runs: Sequence[Run], top_k: int | None = None, *, k: int = RRF_K
) -> dict[str, Ranking]:
    """Every query of a run; a passage's score is the sum of 1 / (k + rank) over the runs that have
    it, ranks from 1 on."""
    found: dict[str, Ranking] = {}
    for query_id, rankings in _by_query(runs):
        scores: dict[str, float] = {}
        for ranking in rankings:
            for rank, passage_id in enumerate(ranking.passage_ids, start=1):
                scores[passage_id] = scores.get(passage_id, 0.0) + 1 / (k + rank)
        found[query_id] = _sorted(query_id, scores, top_k)
    return found


def weigh_scores(
    runs: Sequence[Run], weights: Sequence[float], top_k: int | None = None
) -> dict[str, Ranking]:
    """Every query of a run; a passage's score is the weighted sum of its scores, each run's brought
    to mean 0 and standard deviation 1 over all passages that any run has for the query.

    A passage that a run does not have counts there as the lowest that it has. DataError: not one
    weight for each run.
    """
    if len(weights) != len(runs):
        raise DataError(f"{len(weights)} weights for {len(runs)} runs")
    found: dict[str, Ranking] = {}
    for query_id, rankings in _by_query(runs, every=True):
        ids = list(dict.fromkeys(p for ranking in rankings for p in ranking.passage_ids))
        total = np.zeros(len(ids))
        for ranking, weight in zip(rankings, weights, strict=True):
            known = dict(zip(ranking.passage_ids, ranking.scores, strict=True))
            lowest = min(known.values(), default=0.0)
            total += weight * z_scores(np.array([known.get(i, lowest) for i in ids]))
        found[query_id] = _sorted(query_id, dict(zip(ids, total.tolist(), strict=True)), top_k)
    return found


def _by_query(runs: Sequence[Run], *, every: bool = False) -> Iterator[tuple[str, list[Ranking]]]:
    """Each query with its rankings; `every` run's, an empty one where it has none."""
    for query_id in dict.fromkeys(query_id for run in runs for query_id in run):
        nothing = Ranking(query_id=query_id, passage_ids=(), scores=())
        rankings = [run.get(query_id, nothing) for run in runs]
        yield query_id, [ranking for ranking in rankings if every or len(ranking)]


def _sorted(query_id: str, scores: Mapping[str, float], top_k: int | None) -> Ranking:
    ranking = Ranking.sorted(query_id, scores.keys(), scores.values())
    return ranking if top_k is None else ranking.top(top_k)


def _of_all(done: int, parts: int, progress: Progress | None) -> Progress | None:
    """A part's progress as that of all."""
    if progress is None:
        return None
    return lambda now, total: progress((done * total + now) // parts, total)


def open_hybrid(spec: RetrieverSpec, setting: Setting) -> Hybrid:
    """The parts that `spec` names, opened over one corpus."""
    return Hybrid([open_retriever(part, setting) for part in spec.parts], spec.weights)
