"""Requests that share batches: who computes, what changes in the scores, whose error it is."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import pairs

from dear.errors import BackendError, Cancelled
from dear.rank.pointwise import PointwiseRanker
from dear.scoring.biencoder import BiEncoder
from dear.scoring.loading import load_scoring_model
from dear.scoring.queue import SMALL_PAIRS, PairQueue, queue_of
from dear.scoring.scorer import Prepared, Scorer

Pieces = Sequence[tuple[Prepared, Sequence[int]]]

REQUESTS = [pairs(1 + i % 4, seed=i) for i in range(24)]


@pytest.fixture(scope="module", params=["bert", "llama"])
def scorer(request: pytest.FixtureRequest, tiny: Callable[[str], Path]) -> Scorer:
    return Scorer(load_scoring_model(tiny(request.param), dtype="float32"))


class Held:
    """Holds the first computation until `count` requests wait, and notes who was together."""

    def __init__(self, queue: PairQueue, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.queue, self.count = queue, count
        self.groups: list[int] = []
        self.compute = queue.model.score_pieces  # type: ignore[attr-defined]
        monkeypatch.setattr(queue.model, "score_pieces", self)

    def __call__(self, requests: Pieces) -> Any:
        if not self.groups:
            deadline = threading.Event()
            while len(self.queue._waiting) < self.count:
                assert not deadline.wait(0.005)
        self.groups.append(len(requests))
        return self.compute(requests)


def together(queue: PairQueue, requests: Sequence[Any]) -> list[Any]:
    with ThreadPoolExecutor(len(requests)) as threads:
        return [
            f.exception() or f.result().scores
            for f in [threads.submit(queue.score, r) for r in requests]
        ]


def test_waiting_requests_share_batches_and_keep_their_scores(
    scorer: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = [scorer.score(request) for request in REQUESTS]
    queue = PairQueue(scorer)
    held = Held(queue, len(REQUESTS), monkeypatch)
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
    held = Held(queue, len(REQUESTS), monkeypatch)
    inner = held.compute

    def note(requests: Pieces) -> Any:
        tokens.append(sum(len(one.encoded[i]) for one, piece in requests for i in piece))
        return inner(requests)

    held.compute = note
    small = [r for r in REQUESTS if scorer.prepare(r).tokens < 150]
    held.count = len(small)
    together(queue, small)
    assert max(tokens) <= 150
    assert len(tokens) < len(small)


def test_a_request_alone_has_the_bits_of_the_scorer(scorer: Scorer) -> None:
    queue = PairQueue(scorer)
    twice = [*REQUESTS[3], *REQUESTS[3]]
    for request in (*REQUESTS[:6], twice, pairs(SMALL_PAIRS + 1), []):
        assert queue.score(request).scores.tolist() == scorer.score(request).tolist()
    assert queue.shared == 0


def test_an_error_is_that_of_its_own_request(
    scorer: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = PairQueue(scorer)
    held = Held(queue, len(REQUESTS), monkeypatch)
    inner = held.compute
    bad = REQUESTS[7][0]

    def fails(requests: Pieces) -> Any:
        if any(bad in one.pairs for one, _ in requests):
            raise BackendError("not finite")
        return inner(requests)

    held.compute = fails
    found = together(queue, REQUESTS)
    failed = [i for i, one in enumerate(found) if isinstance(one, BackendError)]
    assert failed == [i for i, r in enumerate(REQUESTS) if bad in r]
    assert queue.score(REQUESTS[0]).scores.tolist() == scorer.score(REQUESTS[0]).tolist()


def test_an_interrupt_in_the_computing_thread_leaves_the_others_their_turn(
    scorer: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = PairQueue(scorer)
    held = Held(queue, len(REQUESTS), monkeypatch)
    inner = held.compute

    def interrupted(requests: Pieces) -> Any:
        if len(held.groups) == 2:
            raise KeyboardInterrupt
        return inner(requests)

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


# -- turns, and who takes no more of them ------------------------------------------------------


class Noted:
    """Notes whose pieces are computed, in order."""

    def __init__(self, scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
        self.turns: list[list[int]] = []
        self.inner = scorer.score_pieces
        self.before: Callable[[], None] = lambda: None
        monkeypatch.setattr(scorer, "score_pieces", self)

    def __call__(self, pieces: Pieces) -> Any:
        self.before()
        self.turns.append([len(one.pairs) for one, _ in pieces])
        return self.inner(pieces)


@pytest.fixture
def short_turns(tiny: Callable[[str], Path]) -> Scorer:
    return Scorer(load_scoring_model(tiny("bert"), dtype="float32"), batch_tokens=150)


def never() -> bool:
    return False


def test_a_small_request_waits_for_one_batch_of_a_large_one(
    short_turns: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue, large, small = PairQueue(short_turns), pairs(200), pairs(2, seed=5)
    noted = Noted(short_turns, monkeypatch)
    with ThreadPoolExecutor(2) as threads:
        begun = threading.Event()
        noted.before = begun.set
        first = threads.submit(queue.score, large, stop=never)
        assert begun.wait(30)

        def in_line() -> None:
            """The next turns wait for it, however late its thread starts."""
            ends = time.monotonic() + 30
            while len(queue._waiting) < 2 and not any(2 in turn for turn in noted.turns):
                assert time.monotonic() < ends
                time.sleep(0.001)

        noted.before = in_line
        before = len(noted.turns)
        second = threads.submit(queue.score, small)
        second.result(30)
        after = [i for i, turn in enumerate(noted.turns) if 2 in turn]
        whole = first.result(60)
    assert after
    assert after[0] <= before + 3  # the batch at work, and what passed until it was in line
    assert len(noted.turns) > 10
    np.testing.assert_allclose(whole.scores, short_turns.score(large), rtol=0, atol=1e-5)


def test_equal_requests_go_in_the_order_of_arrival_and_none_waits_for_ever(
    short_turns: Scorer,
) -> None:
    queue = PairQueue(short_turns, share=False)
    ended: list[int] = []

    def ask(n: int) -> None:
        queue.score(pairs(40, seed=n), stop=never)
        ended.append(n)

    with ThreadPoolExecutor(8) as threads:
        for future in [threads.submit(ask, n) for n in range(8)]:
            future.result(60)
    assert sorted(ended) == list(range(8))
    assert not queue._waiting
    assert not queue._busy


def test_what_stop_leaves_out_is_the_end_in_order(
    short_turns: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue, many = PairQueue(short_turns), pairs(120)
    noted = Noted(short_turns, monkeypatch)
    found = queue.score(many, stop=lambda: len(noted.turns) >= 3, in_order=True)
    done = np.isfinite(found.scores)
    assert len(noted.turns) == 3
    count = int(done.sum())
    assert 0 < count < len(many)
    assert done[:count].all()
    assert len(found.read) == len(many)
    np.testing.assert_allclose(
        found.scores[:count], short_turns.score(many[:count]), rtol=0, atol=1e-5
    )


def test_an_error_of_stop_ends_its_own_request(short_turns: Scorer) -> None:
    queue, calls = PairQueue(short_turns), iter(range(100))

    def gone() -> bool:
        if next(calls) >= 2:
            raise Cancelled("gone")
        return False

    with ThreadPoolExecutor(2) as threads:
        asked = threads.submit(queue.score, pairs(120), stop=gone)
        other = threads.submit(queue.score, pairs(60, seed=3), stop=never)
        assert isinstance(asked.exception(60), Cancelled)
        assert np.isfinite(other.result(60).scores).all()
    assert not queue._waiting


def test_a_request_whose_time_is_over_before_its_turn_has_no_scores(short_turns: Scorer) -> None:
    queue = PairQueue(short_turns)
    found = queue.score(pairs(5), stop=lambda: True)
    assert np.isnan(found.scores).all()
    assert not queue._waiting


def test_the_batches_of_a_request_alone_are_those_of_the_scorer(short_turns: Scorer) -> None:
    queue, many = PairQueue(short_turns), pairs(90)
    assert queue.score(many, stop=never).scores.tolist() == short_turns.score(many).tolist()


def test_what_was_read_stands_with_each_pair(short_turns: Scorer) -> None:
    long = ("a b", "word " * 5000)
    read = PairQueue(short_turns).score([*pairs(2), long, long]).read
    assert [one.cut for one in read] == [False, False, True, True]
    assert read[2] == read[3]
    assert read[2].tokens == short_turns.contract.longest


def test_a_model_of_its_own_batches_is_stopped_between_them() -> None:
    model = BiEncoder("minilm-l6", dtype="float32", batch_tokens=64)
    queue, many = PairQueue(model), pairs(90)
    whole = queue.score(many, stop=never)
    assert whole.scores.tolist() == model.score(many).tolist()
    assert [one.cut for one in whole.read] == [False] * 90
    before, calls = model.tokens_scored, iter(range(1000))

    def gone() -> bool:
        if next(calls) == 2:
            raise Cancelled("gone")
        return False

    passes: list[int] = []
    model._forward = noted(model._forward, passes)  # type: ignore[method-assign]
    with pytest.raises(Cancelled):
        queue.score(many, stop=gone)
    assert len(passes) == 3
    assert model.tokens_scored > before
    late = iter(range(1000))
    part = queue.score(many, stop=lambda: next(late) >= 2, in_order=True)
    assert np.isfinite(part.scores).tolist() == [True] * 64 + [False] * 26
    assert len(part.read) == 64


def noted(forward: Callable[[Any], Any], passes: list[int]) -> Callable[[Any], Any]:
    def run(encoded: Any) -> Any:
        passes.append(len(encoded))
        return forward(encoded)

    return run
