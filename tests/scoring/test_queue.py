"""Requests that share batches: who computes, what changes in the scores, whose error it is."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import pairs

from dear.errors import BackendError
from dear.rank.pointwise import PointwiseRanker
from dear.scoring.loading import load_scoring_model
from dear.scoring.queue import SMALL_PAIRS, PairQueue, queue_of
from dear.scoring.scorer import Prepared, Scorer

REQUESTS = [pairs(1 + i % 4, seed=i) for i in range(24)]


@pytest.fixture(scope="module", params=["bert", "llama"])
def scorer(request: pytest.FixtureRequest, tiny: Callable[[str], Path]) -> Scorer:
    return Scorer(load_scoring_model(tiny(request.param), dtype="float32"))


class Held:
    """Holds the first computation until `count` requests wait, and notes who was together."""

    def __init__(self, queue: PairQueue, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.queue, self.count = queue, count
        self.groups: list[int] = []
        self.compute = queue.model.score_prepared  # type: ignore[attr-defined]
        monkeypatch.setattr(queue.model, "score_prepared", self)

    def __call__(self, requests: Sequence[Prepared], progress: Any = None) -> Any:
        if not self.groups:
            deadline = threading.Event()
            while len(self.queue._waiting) < self.count:
                assert not deadline.wait(0.005)
        self.groups.append(len(requests))
        return self.compute(requests, progress)


def together(queue: PairQueue, requests: Sequence[Any]) -> list[Any]:
    with ThreadPoolExecutor(len(requests)) as threads:
        return [
            f.exception() or f.result() for f in [threads.submit(queue.score, r) for r in requests]
        ]


def test_waiting_requests_share_batches_and_keep_their_scores(
    scorer: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = [scorer.score(request) for request in REQUESTS]
    queue = PairQueue(scorer)
    held = Held(queue, len(REQUESTS) - 1, monkeypatch)
    found = together(queue, REQUESTS)
    for mine, expected in zip(found, alone, strict=True):
        np.testing.assert_allclose(mine, expected, rtol=0, atol=1e-5)
    assert sum(held.groups) == len(REQUESTS)
    assert len(held.groups) < len(REQUESTS) / 2
    assert queue.shared == sum(n for n in held.groups if n > 1)
    assert not queue._waiting


def test_a_batch_holds_no_more_than_the_budget(
    tiny: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = Scorer(load_scoring_model(tiny("bert"), dtype="float32"), batch_tokens=150)
    tokens: list[int] = []
    queue = PairQueue(scorer)
    held = Held(queue, len(REQUESTS) - 1, monkeypatch)
    inner = held.compute

    def note(requests: Sequence[Prepared], progress: Any = None) -> Any:
        tokens.append(sum(r.tokens for r in requests))
        return inner(requests, progress)

    held.compute = note
    small = [r for r in REQUESTS if scorer.prepare(r).tokens < 150]
    held.count = len(small) - 1
    together(queue, small)
    assert max(tokens) <= 150
    assert len(tokens) < len(small)


def test_a_request_alone_has_the_bits_of_the_scorer(scorer: Scorer) -> None:
    queue = PairQueue(scorer)
    twice = [*REQUESTS[3], *REQUESTS[3]]
    for request in (*REQUESTS[:6], twice, pairs(SMALL_PAIRS + 1), []):
        assert queue.score(request).tolist() == scorer.score(request).tolist()
    assert queue.shared == 0


def test_an_error_is_that_of_its_own_request(
    scorer: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = PairQueue(scorer)
    held = Held(queue, len(REQUESTS) - 1, monkeypatch)
    inner = held.compute
    bad = REQUESTS[7][0]

    def fails(requests: Sequence[Prepared], progress: Any = None) -> Any:
        if any(bad in r.pairs for r in requests):
            raise BackendError("not finite")
        return inner(requests, progress)

    held.compute = fails
    found = together(queue, REQUESTS)
    failed = [i for i, one in enumerate(found) if isinstance(one, BackendError)]
    assert failed == [i for i, r in enumerate(REQUESTS) if bad in r]
    assert queue.score(REQUESTS[0]).tolist() == scorer.score(REQUESTS[0]).tolist()


def test_an_interrupt_in_the_computing_thread_leaves_the_others_their_turn(
    scorer: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = PairQueue(scorer)
    held = Held(queue, len(REQUESTS) - 1, monkeypatch)
    inner = held.compute

    def interrupted(requests: Sequence[Prepared], progress: Any = None) -> Any:
        if len(held.groups) == 2:
            raise KeyboardInterrupt
        return inner(requests, progress)

    held.compute = interrupted
    found = together(queue, REQUESTS)
    kinds = [type(one) for one in found]
    assert kinds.count(KeyboardInterrupt) == 1
    assert kinds.count(np.ndarray) == len(REQUESTS) - 1
    assert not queue._waiting


def test_only_float32_shares_unasked(tiny: Callable[[str], Path]) -> None:
    half = Scorer(load_scoring_model(tiny("bert"), dtype="bfloat16"))
    assert not PairQueue(half).share
    assert PairQueue(half, share=True).share
    assert queue_of(Scorer(load_scoring_model(tiny("bert"), dtype="float32"))).share


def test_rankers_of_one_model_share_its_queue(scorer: Scorer) -> None:
    assert PointwiseRanker(scorer)._queue is PointwiseRanker(scorer)._queue
    assert queue_of(scorer) is PointwiseRanker(scorer)._queue
