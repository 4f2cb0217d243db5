"""Two-stage reranking: score all pairs, then rerank the top listwise."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from dataclasses import replace

from dear.errors import ConfigError
from dear.listwise.strategies import Full, Strategy
from dear.rank.listwise import ListwiseRanker
from dear.rank.ranker import (
    Cancel,
    Limits,
    Progress,
    Ranker,
    as_candidates,
    check_top_k,
)
from dear.records import Candidates, Ranking, RankingCost

logger = logging.getLogger(__name__)

DEPTH = 20
"""Candidates that are reranked listwise where nothing else is said: one window."""
PROBES = 4
"""Queries whose first window is timed where a time is given and nothing was ranked yet."""


class Cascade:
    """A pointwise ranker over all candidates, a listwise one over the best of them.

        reranker = Reranker({"model": "runs/points", "listwise": "local:runs/lists"})
        reranker.rank("open a file", ["def open(...)", "def close(...)"], top_k=1)

    first:     any Ranker, usually a pointwise one.
    lists:     a ListwiseRanker; its `depth` is how many of the first's best it reranks, DEPTH
               where it is None.
    calls:     windows a query at most: the largest depth that takes no more is used.
    seconds:   for each query of a call on average, both stages. The depth is planned to keep it, by
               the seconds that a window took before, at first by a few windows that are timed and
               not used; nothing is cut off. With a `deadline` the depth is planned, too, and what
               is not done by then is cut off; a ranking that it made shallower is not complete.
    one_backbone: whether both stages sit on one base, which is then in memory once.
    """

    def __init__(
        self,
        first: Ranker,
        lists: ListwiseRanker,
        *,
        calls: int | None = None,
        seconds: float | None = None,
        one_backbone: bool = False,
    ) -> None:
        if calls is not None and calls < 0:
            raise ConfigError(f"calls must be 0 or more, not {calls}")
        if seconds is not None and not seconds > 0:
            raise ConfigError(f"seconds must be more than 0, not {seconds}")
        self.first, self.lists, self.one_backbone = first, lists, one_backbone
        self.calls, self.seconds = calls, seconds
        self._window_s: float | None = None  # an estimate for planning, not a result

    @property
    def name(self) -> str:
        return f"{self.first.name} > {self.lists.name}"

    @property
    def depth(self) -> int:
        """Candidates that are reranked listwise, at most."""
        return self.lists.depth or DEPTH

    def rank_candidates(
        self,
        candidates: Iterable[Candidates],
        *,
        top_k: int | None = None,
        progress: Progress | None = None,
        deadline: float | None = None,
        cancel: Cancel | None = None,
    ) -> Iterator[Ranking]:
        """See `Ranker`. Scores are those of the listwise stage (`ListwiseRanker`).

        progress: called with (pairs and windows done, pairs and windows at most).
        """
        check_top_k(top_k)
        many = list(candidates)
        ranked = self._rank(many, progress, Limits(deadline, cancel)) if many else []
        return (ranking if top_k is None else ranking.top(top_k) for ranking in ranked)

    def _rank(
        self, many: Sequence[Candidates], progress: Progress | None, limits: Limits
    ) -> list[Ranking]:
        begun = time.monotonic()
        pairs = sum(len(c.passages) for c in many)
        most = sum(self.lists.strategy.calls(min(self.depth, len(c.passages))) for c in many)
        first = list(
            self.first.rank_candidates(
                many,
                progress=progress and _shifted(progress, 0, pairs + most),
                deadline=limits.deadline,
                cancel=limits.cancel,
            )
        )
        again = [as_candidates(c, ranking) for c, ranking in zip(many, first, strict=True)]
        wanted = min(self.depth, max(len(c.passages) for c in many))
        planned_end = None if self.seconds is None else begun + self.seconds * len(many)
        planned = self._affordable(again, wanted, planned_end, limits)
        depth = min(planned, self._affordable(again, wanted, limits.deadline, limits))
        lists = copy(self.lists)
        lists.depth = max(depth, 1)  # one passage needs no window
        listed = lists.rank_candidates(
            again,
            progress=progress and _shifted(progress, pairs, pairs + most),
            deadline=limits.deadline,
            cancel=limits.cancel,
        )
        found = [
            _both(points, ranking, cut=depth < min(planned, len(ranking)))
            for points, ranking in zip(first, listed, strict=True)
        ]
        self._learn(found)
        if progress is not None and pairs + most:
            progress(pairs + most, pairs + most)
        return found

    def _affordable(
        self, first: Sequence[Candidates], depth: int, end: float | None, limits: Limits
    ) -> int:
        """The largest depth, `depth` at most, whose windows can be asked by `end`."""
        calls = self.calls
        if end is not None and depth > 1:
            if self._window_s is None and not limits.reached():
                self._window_s = self._probe(first, depth)
            left = (end - time.monotonic()) / len(first)
            affordable = int(left / max(self._window_s or 0.0, 1e-9)) if left > 0 else 0
            calls = affordable if calls is None else min(calls, affordable)
        found = deepest(self.lists.strategy, depth, calls)
        if found < depth:
            logger.info("%s: the best %d are reranked listwise, not %d", self.name, found, depth)
        return found

    def _probe(self, first: Sequence[Candidates], depth: int) -> float:
        """Seconds of the first window that the strategy asks of a few queries."""
        some = [c for c in first if len(c.passages) > 1][:PROBES]
        size = len(next(self.lists.strategy.plan(depth))[0])
        ranker = ListwiseRanker(
            self.lists.backend, strategy=Full(), prompt=self.lists.prompt, depth=size
        )
        started = time.monotonic()
        list(ranker.rank_candidates(some))
        return (time.monotonic() - started) / len(some)

    def _learn(self, found: Sequence[Ranking]) -> None:
        windows = sum(r.cost.windows for r in found if r.cost is not None)
        if windows:
            self._window_s = sum(r.cost.listwise_s for r in found if r.cost is not None) / windows


def deepest(strategy: Strategy, depth: int, calls: int | None) -> int:
    """The largest depth, `depth` at most, that takes no more than `calls` windows; 0 if none."""
    if calls is None:
        return depth
    fits = (d for d in range(depth, 1, -1) if strategy.calls(d) <= calls)
    return next(fits, 0)


def _both(points: Ranking, listed: Ranking, *, cut: bool) -> Ranking:
    """The listwise ranking of what the pointwise one gave, with what both took.

    cut: a deadline left fewer candidates to the listwise stage.
    """
    return replace(
        listed,
        complete=points.complete and listed.complete and not cut,
        positions=tuple(points.positions[i] for i in listed.positions),
        read=tuple(points.read[i] for i in listed.positions) if points.read else (),
        reasoning=(*points.reasoning, *listed.reasoning),
        cost=(points.cost or RankingCost()) + (listed.cost or RankingCost()),
    )


def _shifted(progress: Progress, before: int, total: int) -> Progress:
    return lambda done, _all: progress(before + done, total)
