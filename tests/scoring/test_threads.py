"""Eight threads on one model get the bits that one gets, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from shared_models import (
    CONTRACT,
    GROUPS,
    Rankings,
    at_once,
    candidates,
    in_threads,
    inputs,
    one_after_the_other,
    two_adapters,
    windows,
)
from tiny_models import make, pairs, save, tokenizer_for
from transformers.utils import logging as hf_logging

from dear import Reranker
from dear.checkpoints.files import quiet
from dear.checkpoints.threads import FairLock, FairPool, _lock_of, exclusive
from dear.listwise.backbone import Backbone
from dear.scoring.biencoder import BiEncoder
from dear.scoring.loading import ScoringModel, load_scoring_model
from dear.scoring.opening import open_model
from dear.scoring.scorer import Scorer
from kills import in_a_process

IN_CI = (
    "bert",
    "llama",
    "lists",
    "backbone, constrained",
    "backbone, attention",
    "biencoder",
    "zero-shot",
    "export",
)
"""The others go through benchmarks/threads.py; a pool has its tests in test_workers.py."""


@pytest.fixture(autouse=True)
def many_switches() -> Iterator[None]:
    """Threads take each other's place every 50 µs, not every 5 ms."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(5e-5)
    yield
    sys.setswitchinterval(before)


@pytest.fixture
def other_dtype() -> Iterator[None]:
    """As it is for a moment while another thread loads a model in bfloat16."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    yield
    torch.set_default_dtype(before)


@pytest.fixture
def bert(tiny: Callable[[str], Path]) -> ScoringModel:
    """Loaded anew: nothing was tried out on it."""
    return load_scoring_model(tiny("bert"), contract=CONTRACT, dtype="float32", device="cpu")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", IN_CI)
def test_the_same_calls_give_the_same_bits(name: str, tmp_path: Path) -> None:
    if name == "export":
        pytest.importorskip("openvino", reason="the extra `openvino` is not installed")
    group = GROUPS[name](tmp_path)
    expected = one_after_the_other(group)
    for calls in expected.values():
        assert all(a != b for i, a in enumerate(calls) for b in calls[:i])  # a mix-up must show
    outcome = at_once(group, expected, threads=8, each=24)
    assert not outcome.faults, outcome.faults
    # nor do they depend on what was called before
    backwards = {name: calls[::-1] for name, calls in reversed(group.items())}
    found = one_after_the_other(backwards)
    assert {name: calls[::-1] for name, calls in found.items()} == expected


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["bert", "llama", "lists", "zero-shot"])
def test_a_pass_does_not_see_that_another_model_is_loaded(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    group = GROUPS[name](tmp_path)
    expected = one_after_the_other(group)
    request.getfixturevalue("other_dtype")
    assert one_after_the_other(group) == expected


@pytest.mark.filterwarnings("ignore")
def test_models_are_loaded_one_at_a_time(tiny: Callable[[str], Path], tmp_path: Path) -> None:
    """What transformers and peft change for the whole process while they load is changed back, and
    nothing is loaded by another's changes."""
    points, lists = two_adapters(tmp_path)
    some = inputs(1)

    def scores(source: Path, dtype: Any) -> bytes:
        return open_model(source, dtype=dtype, device="cpu").score(some).tobytes()

    def both(dtype: Any) -> bytes:
        return Backbone(points, lists, dtype=dtype, device="cpu").pairs.score(some).tobytes()

    work: list[Callable[[], bytes]] = [
        partial(scores, source, dtype)
        for source in (tiny("bert"), tiny("llama"), points)
        for dtype in ("float32", "bfloat16")
    ]
    work += [partial(both, "float32"), partial(both, "bfloat16")]
    before = (torch.get_default_dtype(), torch.linspace, hf_logging.get_verbosity())
    expected = [one() for one in work]
    assert len(set(expected)) == len(work)
    for _ in range(2):
        assert in_threads(work) == expected
        after = (torch.get_default_dtype(), torch.linspace, hf_logging.get_verbosity())
        assert after == before


def test_what_is_tried_out_is_tried_out_once(bert: ScoringModel) -> None:
    """Eight threads open engines on a model that nobody has used, and score at once."""
    alone = Scorer(
        load_scoring_model(bert.name, contract=CONTRACT, dtype="float32", device="cpu"),
        engine="packed",
        batch_tokens=200,
    )

    def hooks(model: ScoringModel) -> int:
        return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.model.modules())

    def score(engine: Any) -> bytes:
        return Scorer(bert, engine=engine, batch_tokens=200).score(inputs(2)).tobytes()

    found = in_threads([partial(score, ("padded", "packed")[i % 2]) for i in range(8)])
    assert found[1::2] == [alone.score(inputs(2)).tobytes()] * 4
    assert len(set(found[::2])) == 1
    padded = Scorer(alone.model, engine="padded", batch_tokens=200)  # type: ignore[arg-type]
    assert found[0] == padded.score(inputs(2)).tobytes()
    assert hooks(bert) == hooks(alone.model)  # type: ignore[arg-type]


def test_everything_is_counted(bert: ScoringModel) -> None:
    scorer = Scorer(bert, batch_tokens=200)
    scorer.score(inputs(3))
    tokens, padded = scorer.tokens_scored, scorer.tokens_padded
    assert padded is not None
    assert padded >= tokens > 0
    in_threads([lambda: [scorer.score(inputs(3)) for _ in range(5)] for _ in range(8)])
    assert (scorer.tokens_scored, scorer.tokens_padded) == (41 * tokens, 41 * padded)


def test_progress_is_that_of_its_own_call(bert: ScoringModel) -> None:
    scorer = Scorer(bert, batch_tokens=100)

    def watched(variant: int) -> list[tuple[int, int]]:
        seen: list[tuple[int, int]] = []
        scorer.score(inputs(variant), lambda *now: seen.append(now))
        return seen

    expected = [watched(i % 4) for i in range(8)]
    assert len(expected[3]) > 3
    for _ in range(5):
        assert in_threads([partial(watched, i % 4) for i in range(8)]) == expected


def test_a_reranker_of_an_event_loop(bert: ScoringModel) -> None:
    reranker = Reranker(Scorer(bert, batch_tokens=200))
    given = [candidates(i % 4) for i in range(8)]
    expected = [reranker.rank(one.query.text, one.passages) for one in given]

    async def all_at_once() -> list[Any]:
        calls = (asyncio.to_thread(reranker.rank, c.query.text, c.passages) for c in given)
        return await asyncio.gather(*calls)

    assert Rankings(asyncio.run(all_at_once())) == Rankings(expected)


def test_both_sides_of_a_backbone_from_a_callback(tmp_path: Path) -> None:
    """`on_answer` scores pairs, `progress` reads windows: each under its own adapter."""
    both = Backbone(*two_adapters(tmp_path), dtype="float32", device="cpu", reading="constrained")
    some = windows(1)
    scores, answers = both.pairs.score(inputs(0)), both.lists.read(some)
    seen: list[bool] = []
    found = both.lists.read(
        some,
        lambda _place, _answer: seen.append(bool((both.pairs.score(inputs(0)) == scores).all())),
    )
    assert found == answers
    assert seen == [True] * len(some)
    again = both.pairs.score(
        inputs(0), lambda _done, _total: seen.append(both.lists.read(some) == answers)
    )
    assert (again == scores).all()
    assert all(seen)
    assert len(seen) > len(some)


# -- a bi-encoder keeps what it was told to keep -------------------------------------------------


@pytest.mark.filterwarnings("ignore")
def test_of_two_that_prepare_one_text_the_first_counts(tmp_path: Path) -> None:
    source = save(tmp_path / "embed", make("bert", hf.AutoModel), tokenizer_for("bert"))
    model = BiEncoder(source, dtype="float32", batch_tokens=100)
    text = "river bank"
    seen: list[bytes] = []

    def prepare(company: int) -> None:
        model.prepare([(text, passage) for _, passage in pairs(company, seed=company)])
        seen.append(model.dual.prepared[text].tobytes())

    in_threads([partial(prepare, i + 1) for i in range(8)])
    assert {model.dual.prepared[text].tobytes()} == set(seen)


# -- turns -----------------------------------------------------------------------------------------


def waiting(lock: FairLock | FairPool[Any], count: int) -> None:
    """Until so many threads wait for it."""
    pool = lock._turn if isinstance(lock, FairLock) else lock
    for _ in range(6000):
        if len(pool._waiting) == count:
            return
        time.sleep(0.01)
    raise AssertionError(f"{len(pool._waiting)} threads wait, not {count}")


def test_who_asks_first_is_served_first() -> None:
    lock, served = FairLock(), list[int]()
    threads = []

    def take(number: int) -> None:
        with lock, lock:  # twice: its holder may
            assert lock.mine
            served.append(number)

    with lock:
        for number in range(8):
            threads.append(threading.Thread(target=take, args=(number,), daemon=True))
            threads[-1].start()
            waiting(lock, number + 1)
        assert served == []
    for thread in threads:
        thread.join(60)
    assert served == list(range(8))
    assert not lock.mine


def test_a_small_request_waits_for_one_batch_of_a_large_one(bert: ScoringModel) -> None:
    scorer = Scorer(bert, batch_tokens=40)
    scorer.score(inputs(0))
    order: list[str] = []
    bert.model.register_forward_pre_hook(
        lambda *_: order.append(threading.current_thread().name), prepend=True
    )
    lock = _lock_of(bert.model.base_model)
    threads = [
        threading.Thread(target=scorer.score, args=(some,), name=name, daemon=True)
        for name, some in (("large", inputs(3)), ("small", inputs(0)[:1]))
    ]
    with exclusive(bert.model):
        for number, thread in enumerate(threads):
            thread.start()
            waiting(lock, number + 1)
    for thread in threads:
        thread.join(60)
    assert order[:3] == ["large", "small", "large"]
    assert order.count("small") == 1
    assert order.count("large") > 5


def interrupted_while_it_waits() -> None:
    """Ctrl-C while a thread waits: neither its place in the row nor the thing itself is lost."""
    # a shell that starts something in the background has it ignored
    signal.signal(signal.SIGINT, signal.default_int_handler)
    pool = FairPool(["thing"])
    thing = pool.take()

    def interrupt() -> None:
        waiting(pool, 1)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        pool.take()
    pool.give(thing)
    assert pool.take_free() == "thing"
    assert pool.take_free() is None


def test_a_thread_that_is_interrupted_keeps_nothing() -> None:
    # in a process of its own: the test runner minds SIGINT
    assert in_a_process(interrupted_while_it_waits) == 0


def test_a_turn_ends_with_an_error(bert: ScoringModel) -> None:
    with pytest.raises(ZeroDivisionError), exclusive(bert.model):
        raise ZeroDivisionError
    assert in_threads([lambda: exclusive(bert.model).__enter__()]) == [None]


def test_silence_lasts_until_the_last_has_ended() -> None:
    level = hf_logging.get_verbosity()
    first, second = quiet(), quiet()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert hf_logging.get_verbosity() == hf_logging.ERROR
    second.__exit__(None, None, None)
    assert hf_logging.get_verbosity() == level != hf_logging.ERROR


# -- callbacks can lock nothing up -----------------------------------------------------------------


def test_a_callback_may_score_and_wait_for_others_that_score(bert: ScoringModel) -> None:
    scorer = Scorer(bert, batch_tokens=100)
    expected = scorer.score(inputs(1))
    seen: list[Any] = []

    def report(_done: int, _total: int) -> None:
        seen.append(scorer.score(inputs(1)))
        seen.extend(in_threads([lambda: scorer.score(inputs(1))] * 3))

    in_threads([lambda: scorer.score(inputs(2), report)] * 2)
    assert len(seen) >= 16
    assert all((one == expected).all() for one in seen)


@pytest.mark.filterwarnings("ignore")
def test_a_callback_of_an_export_may_score(tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="the extra `openvino` is not installed")
    from dear.export.openvino import export_openvino

    source = save(tmp_path / "source", make("bert"), tokenizer_for("bert"))
    loaded = load_scoring_model(source, contract=CONTRACT, dtype="float32", device="cpu")
    export_openvino(loaded, tmp_path / "export", "float32")
    model = open_model(tmp_path / "export", batch_tokens=60)
    expected = model.score(inputs(1))
    seen: list[Any] = []

    def report(_done: int, _total: int) -> None:
        seen.append(model.score(inputs(1)))

    def fail(_done: int, _total: int) -> None:
        raise ZeroDivisionError

    in_threads([lambda: model.score(inputs(3), report)] * 4)
    assert len(seen) >= 16
    # an error of a callback loses no request
    for _ in range(4):
        with pytest.raises(ZeroDivisionError):
            model.score(inputs(3), fail)
    in_threads([lambda: model.score(inputs(3), report)] * 4)
    assert all((one == expected).all() for one in seen)
