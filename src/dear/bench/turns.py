"""Systems measured in turns: A B C A B C …, so that a busy moment hits them all."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dear.errors import BackendError
from dear.evaluate.metrics import evaluate
from dear.records import Candidates, Judgements, Ranking
from dear.scoring.encoding import Pair

Score = Callable[[Sequence[Pair]], Any]
"""Pairs to one score each."""

WARM_UP_PAIRS = 64


@dataclass(frozen=True, kw_only=True)
class System:
    """Something that scores pairs.

    load: gives the function that scores, weights in memory.
    """

    name: str
    load: Callable[[], Score]


@dataclass(kw_only=True)
class Timing:
    """What one system did. seconds: of each round.  load_s: until it was ready.
    scores: float32 (n,), of the last round."""

    name: str
    load_s: float
    seconds: list[float] = field(default_factory=list)
    scores: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, dtype=np.float32))

    @property
    def median_s(self) -> float:
        return statistics.median(self.seconds)

    @property
    def pairs_per_s(self) -> float:
        return len(self.scores) / self.median_s


def in_turns(
    systems: Sequence[System],
    pairs: Sequence[Pair],
    *,
    rounds: int = 3,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[Timing], dict[str, str]]:
    """(timings in the order of `systems`, why the others could not be measured).

    All systems are loaded and warmed up first; then each scores all pairs once a round, the
    order turned round from round to round. Reading weights is not in `seconds`.
    """
    ready: list[tuple[Timing, Score]] = []
    failed: dict[str, str] = {}
    for system in systems:
        try:
            started = time.perf_counter()
            score = system.load()
            loaded = time.perf_counter() - started
            score(list(pairs[:WARM_UP_PAIRS]))
            ready.append((Timing(name=system.name, load_s=loaded), score))
        except Exception as error:
            # a peer may fail in any way; ours must not go down with it
            failed[system.name] = _first(error)
    done, steps = 0, rounds * len(ready)
    for turn in range(rounds):
        for timing, score in ready if turn % 2 == 0 else ready[::-1]:
            gc.collect()
            started = time.perf_counter()
            found = score(list(pairs))
            timing.seconds.append(time.perf_counter() - started)
            timing.scores = np.asarray(found, dtype=np.float32).reshape(-1)
            if len(timing.scores) != len(pairs):
                raise BackendError(
                    f"{timing.name}: {len(timing.scores)} scores for {len(pairs)} pairs"
                )
            done += 1
            if progress is not None:
                progress(done, steps)
    return [timing for timing, _ in ready], failed


def quality(
    scores: NDArray[np.float32],
    candidates: Sequence[Candidates],
    judgements: Judgements,
    measure: str = "nDCG@10",
) -> float:
    """Mean of a measure over the candidates' queries, ranked by scores in the candidates' order."""
    run: dict[str, Ranking] = {}
    first = 0
    for c in candidates:
        mine = scores[first : first + len(c.passages)]
        first += len(c.passages)
        order = np.argsort(-mine, kind="stable")
        run[c.query.id] = Ranking(
            query_id=c.query.id,
            passage_ids=tuple(c.passages[i].id for i in order),
            scores=tuple(float(mine[i]) for i in order),
        )
    asked: Mapping[str, Mapping[str, int]] = {q: judgements[q] for q in run if q in judgements}
    return evaluate(run, asked, (measure,)).means[measure]


def pairs_of(candidates: Sequence[Candidates]) -> list[Pair]:
    """All pairs of all queries, in order."""
    return [(c.query.text, p.full_text) for c in candidates for p in c.passages]


def _first(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
