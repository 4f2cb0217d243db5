"""Pointwise ranking: every pair is scored, and the scores order the candidates."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dear.rank.ranker import Cancel, Limits, Progress, check_top_k, reordered
from dear.records import Candidates, PairRead, Ranking, RankingCost
from dear.scoring.queue import queue_of

if TYPE_CHECKING:
    from dear.scoring.opening import PairModel

CHUNK_PAIRS = 65536
"""Pairs that are held at once while ranking a run; the scorer tokenises ahead inside them."""
CANCELLED_PAIRS, TIMED_PAIRS = 8192, 128
"""Pairs that are held at once where the caller may go away, and where there is a deadline, which
comes before what is not tokenised yet."""


class PointwiseRanker:
    """Orders candidates by a model's scores of (query, passage).

    With a deadline, every query's first candidate is scored before any query's second, so that
    what is cut off is the end of each first stage.
    """

    def __init__(self, model: PairModel) -> None:
        self.model = model
        self._queue = queue_of(model)

    @property
    def name(self) -> str:
        return self.model.name

    def rank_candidates(
        self,
        candidates: Iterable[Candidates],
        *,
        top_k: int | None = None,
        progress: Progress | None = None,
        deadline: float | None = None,
        cancel: Cancel | None = None,
    ) -> Iterator[Ranking]:
        """See `Ranker`; pairs of several queries share batches. Equal scores keep the order."""
        check_top_k(top_k)  # now, not when the first ranking is asked for
        many = list(candidates)
        limits = Limits(deadline, cancel)
        ranked = self._limited(many, progress, limits) if limits else self._chunked(many, progress)
        return (ranking if top_k is None else ranking.top(top_k) for ranking in ranked)

    def _chunked(self, many: Sequence[Candidates], progress: Progress | None) -> Iterator[Ranking]:
        total = sum(len(c.passages) for c in many)
        done = 0
        for chunk in _chunks(many, CHUNK_PAIRS):
            started = time.perf_counter()
            pairs = [(c.query.text, p.full_text) for c in chunk for p in c.passages]

            def report(now: int, _all: int, base: int = done) -> None:
                if progress is not None:
                    progress(base + now, total)

            found = self._queue.score(pairs, report)
            done += len(pairs)
            seconds = (time.perf_counter() - started) / len(chunk)
            first = 0
            for c in chunk:
                mine = slice(first, first + len(c.passages))
                yield _ranking(c, found.scores[mine], found.read[mine], seconds)
                first += len(c.passages)

    def _limited(
        self, many: Sequence[Candidates], progress: Progress | None, limits: Limits
    ) -> Iterator[Ranking]:
        started = time.perf_counter()
        scores: list[list[float]] = [[] for _ in many]
        read: list[list[PairRead]] = [[] for _ in many]
        deepest = max((len(c.passages) for c in many), default=0)
        # the first of each query, then the second of each, …
        places = [(q, at) for at in range(deepest) for q in range(len(many))]
        places = [(q, at) for q, at in places if at < len(many[q].passages)]
        timed = limits.deadline is not None
        size = TIMED_PAIRS if timed else CANCELLED_PAIRS
        for i in range(0, len(places), size):
            if limits.reached():
                break
            piece = places[i : i + size]
            pairs = [(many[q].query.text, many[q].passages[at].full_text) for q, at in piece]
            found = self._queue.score(pairs, stop=limits.reached, in_order=timed)
            # where time was short; a text that comes twice may have a score behind the first gap
            gaps = np.flatnonzero(np.isnan(found.scores))
            done = int(gaps[0]) if len(gaps) else len(piece)
            for at, (q, _) in enumerate(piece[:done]):
                scores[q].append(float(found.scores[at]))
                read[q] += found.read[at : at + 1]
            if progress is not None:
                progress(i + done, len(places))
            if done < len(piece):
                break
        seconds = (time.perf_counter() - started) / max(len(many), 1)
        for c, mine, of_mine in zip(many, scores, read, strict=True):
            yield _ranking(c, np.array(mine, dtype=np.float32), of_mine, seconds)


def _ranking(
    candidates: Candidates, scores: NDArray[np.float32], read: Sequence[PairRead], seconds: float
) -> Ranking:
    """scores, read: of the first candidates, or of all."""
    order = np.argsort(-scores, kind="stable")
    return reordered(
        candidates,
        order.tolist(),
        scores[order].tolist(),
        complete=len(scores) == len(candidates.passages),
        cost=RankingCost(pairs=len(scores), pointwise_s=seconds),
        read=read,
    )


def _chunks(candidates: Sequence[Candidates], pairs: int) -> Iterator[list[Candidates]]:
    held: list[Candidates] = []
    size = 0
    for c in candidates:
        held.append(c)
        size += len(c.passages)
        if size >= pairs:
            yield held
            held, size = [], 0
    if held:
        yield held
