"""Chunks, the thread that tokenises ahead, and the remembered token budget."""

from __future__ import annotations

import json
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import make, pairs

from dear.checkpoints.contract import DEAR
from dear.errors import BackendError, ConfigError
from dear.scoring import budget, scorer
from dear.scoring.batching import CPU_BATCH_TOKENS, ahead, chunk_pairs, in_chunks, token_batches
from dear.scoring.budget import load_batch_tokens, probe_batch_tokens, remember_batch_tokens
from dear.scoring.encoding import Encoded
from dear.scoring.loading import load_scoring_model
from dear.scoring.scorer import Scorer

SOME = pairs(60, seed=5, longest=60)
THREAD = "dear-ahead"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(params=["bert", "llama"])
def model(request: pytest.FixtureRequest, tiny: Callable[[str], Path]) -> Scorer:
    return Scorer(load_scoring_model(tiny(request.param), contract=DEAR, dtype="float32"))


@pytest.fixture
def bert(tiny: Callable[[str], Path]) -> Scorer:
    return Scorer(load_scoring_model(tiny("bert"), contract=DEAR, dtype="float32"))


def threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith(THREAD)]


@given(st.lists(st.integers(0, 9)), st.integers(1, 5))
def test_chunks_hold_everything_in_order(items: list[int], size: int) -> None:
    chunks = list(in_chunks(iter(items), size))
    assert [i for chunk in chunks for i in chunk] == items
    assert all(len(chunk) == size for chunk in chunks[:-1])
    assert all(1 <= len(chunk) <= size for chunk in chunks)


@pytest.mark.parametrize("budget", [1, 2048, 32768, 131072])
def test_a_chunk_is_large_enough_to_pad_little(budget: int) -> None:
    lengths = np.random.default_rng(0).integers(20, 230, chunk_pairs(budget)).tolist()
    batches = token_batches(lengths, budget)
    padded = sum(lengths[batch[0]] * len(batch) for batch in batches)
    assert sum(lengths) > 0.95 * padded


@given(st.lists(st.integers()))
def test_ahead_is_map(items: list[int]) -> None:
    assert list(ahead(iter(items), str)) == [(i, str(i)) for i in items]
    assert not threads()


def test_ahead_works_while_the_caller_does() -> None:
    """The next is made before the caller asks for it, the one after the next is not begun."""
    begun = [threading.Event() for _ in range(4)]
    names: list[str] = []

    def work(i: int) -> int:
        names.append(threading.current_thread().name)
        begun[i].set()
        return i

    ready = ahead(range(4), work)
    for i, (_, made) in enumerate(ready):
        assert made == i
        if i < 3:
            assert begun[i + 1].wait(10)
        assert not any(event.is_set() for event in begun[i + 2 :])
    assert not names[0].startswith(THREAD)
    assert all(name.startswith(THREAD) for name in names[1:])


def test_a_single_chunk_takes_no_thread(bert: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []
    start = threading.Thread.start
    monkeypatch.setattr(
        threading.Thread, "start", lambda self: started.append(self.name) or start(self)
    )
    bert.score(SOME)
    list(bert.stream(SOME, chunk=len(SOME)))
    assert not [name for name in started if name.startswith(THREAD)]
    list(bert.stream(SOME, chunk=len(SOME) - 1))
    assert [name for name in started if name.startswith(THREAD)]


@pytest.mark.parametrize("chunk", [1, 7, 59, 60, 1000])
def test_scores_do_not_depend_on_chunks(
    chunk: int, model: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = model.score(SOME)
    assert expected.std() > 0.1
    twice = [*SOME, *SOME[::-1]]
    both = np.concatenate([expected, expected[::-1]])
    np.testing.assert_allclose(list(model.stream(iter(twice), chunk=chunk)), both, atol=1e-5)
    monkeypatch.setattr(scorer, "chunk_pairs", lambda _batch_tokens: chunk)
    seen: list[tuple[int, int]] = []
    np.testing.assert_allclose(model.score(twice, lambda *now: seen.append(now)), both, atol=1e-5)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (120, 120)
    assert not threads()


def test_the_caller_may_score_while_a_stream_runs(bert: Scorer) -> None:
    """The stream's thread and the caller use one tokenizer at the same time."""
    expected = bert.score(SOME)
    found: list[float] = []
    for i, score in enumerate(bert.stream(SOME, chunk=3)):
        found.append(score)
        if i % 3 == 0:
            np.testing.assert_allclose(bert.score(SOME[:9]), expected[:9], atol=1e-5)
    np.testing.assert_allclose(found, expected, atol=1e-5)


class Text(str):
    """A string that can be counted while it lives."""

    __slots__ = ("__weakref__",)


def test_a_stream_holds_two_chunks(bert: Scorer) -> None:
    chunk, total, pulled = 20, 400, 0
    alive: weakref.WeakSet[Text] = weakref.WeakSet()

    def endless() -> Iterator[tuple[str, str]]:
        nonlocal pulled
        for i in range(total):
            pulled += 1
            text = Text(f"river {i} bank")
            alive.add(text)
            yield "x", text

    most = 0
    for delivered, _ in enumerate(bert.stream(endless(), chunk=chunk)):
        assert pulled - delivered <= 2 * chunk
        most = max(most, len(alive))
    assert pulled == delivered + 1 == total
    # a chunk that is being pulled, at the most, beside the two
    assert chunk < most <= 3 * chunk


def test_identical_pairs_in_a_chunk_are_scored_once(
    bert: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    run = bert.engine.run
    monkeypatch.setattr(
        bert.engine, "run", lambda some, *rest: sizes.append(len(some)) or run(some, *rest)
    )
    scores = list(bert.stream([SOME[0], SOME[1], SOME[0], SOME[0], SOME[0]], chunk=3))
    assert sizes == [2, 1]
    assert scores[0] == scores[2]
    np.testing.assert_allclose(scores[3:], scores[0], atol=1e-5)


def test_a_stream_closed_early_ends_its_thread(bert: Scorer) -> None:
    stream = bert.stream(iter(SOME), chunk=5)
    next(stream)
    assert threads()
    stream.close()
    assert not threads()


def test_a_chunk_of_no_pairs_is_refused(bert: Scorer) -> None:
    with pytest.raises(ConfigError, match="a chunk holds 1 pair or more, not 0"):
        list(bert.stream(SOME, chunk=0))


@pytest.mark.parametrize("at", [0, 4, 5, 12, 20])
def test_an_error_of_the_pairs_follows_the_scores_before_it(at: int, bert: Scorer) -> None:
    def breaking() -> Iterator[tuple[str, str]]:
        yield from SOME[:at]
        raise OSError("the disk is gone")

    stream = bert.stream(breaking(), chunk=5)
    found = [next(stream) for _ in range(at // 5 * 5)]
    with pytest.raises(OSError, match="the disk is gone"):
        next(stream)
    np.testing.assert_allclose(found, bert.score(SOME)[: len(found)], atol=1e-5)
    assert not threads()


def test_an_error_of_the_model_ends_the_thread(
    bert: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, calls = bert.engine.run, []

    def failing(some: Sequence[Encoded], *rest: Any) -> Any:
        calls.append(len(some))
        if len(calls) == 3:
            raise RuntimeError("out of memory")
        return run(some, *rest)

    monkeypatch.setattr(bert.engine, "run", failing)
    stream = bert.stream(SOME, chunk=5)
    for _ in range(10):
        next(stream)
    with pytest.raises(RuntimeError, match="out of memory"):
        next(stream)
    assert not threads()


def test_an_error_of_the_tokenizer_in_the_thread_is_the_callers(
    bert: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = bert.encoder.encode

    def failing(some: Sequence[tuple[str, str]]) -> list[Encoded]:
        if some[0] == SOME[10]:
            raise ValueError("no such letter")
        return encode(some)

    monkeypatch.setattr(bert.encoder, "encode", failing)
    stream = bert.stream(SOME, chunk=5)
    for _ in range(10):
        next(stream)
    with pytest.raises(ValueError, match="no such letter"):
        next(stream)
    assert not threads()


def test_a_score_that_is_no_number_in_a_late_chunk_names_its_pair(tiny: Any) -> None:
    model = Scorer(load_scoring_model(tiny("llama"), contract=DEAR, dtype="float32"))
    bank = model.model.tokenizer(" bank", add_special_tokens=False)["input_ids"][0]
    with torch.no_grad():
        model.model.model.get_input_embeddings().weight[bank] = torch.nan
    stream = model.stream([("x", "y"), ("x", "z"), ("x", "bank")], chunk=1)
    assert np.isfinite([next(stream), next(stream)]).all()
    with pytest.raises(BackendError, match=r"nan for query 'x', passage 'bank'"):
        next(stream)


# the budget


class Clock:
    """What the probe reads instead of the machine's clock: a busy machine changes nothing."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(budget, "time", found)
    return found


class Timed:
    """An engine whose speed is known: seconds a token."""

    def __init__(self, per_token: float, calls: list[int], name: int, clock: Clock) -> None:
        self.per_token, self.calls, self.name, self.clock = per_token, calls, name, clock

    def run(self, encoded: Sequence[Encoded], *_rest: Any) -> Any:
        self.calls.append(self.name)
        self.clock.now += self.per_token * sum(len(e) for e in encoded)
        return np.zeros(len(encoded), dtype=np.float32)


def probe(speeds: dict[int, float], clock: Clock, **options: Any) -> tuple[int | None, list[int]]:
    """The budget found at `speeds`, seconds a token by budget; the budgets of all calls."""
    calls: list[int] = []
    found = probe_batch_tokens(
        lambda b: Timed(speeds[b], calls, b, clock),
        400,
        device=torch.device("cpu"),
        candidates=list(speeds),
        **options,
    )
    return found, calls


def test_the_fastest_budget_is_found_in_turns(clock: Clock) -> None:
    found, calls = probe({512: 30e-6, 1024: 10e-6, 2048: 20e-6}, clock)
    assert found == 1024
    assert calls == [512, 512, *[512, 1024, 2048] * 3]


def test_of_equal_budgets_the_smallest_is_taken(clock: Clock) -> None:
    assert probe({512: 1.02e-6, 1024: 1.01e-6, 2048: 1e-6}, clock)[0] == 512
    assert probe({512: 1.05e-6, 1024: 1.02e-6, 2048: 1e-6}, clock)[0] == 1024


def test_a_slow_model_compares_fewer_budgets_or_none(clock: Clock) -> None:
    speeds = {256: 2e-4, 512: 1e-4, 1024: 1e-6}
    found, calls = probe(speeds, clock, limit_s=1.0)
    assert found == 512  # 1024 would be faster, but its share of the time does not fit
    assert 1024 not in calls
    assert probe(speeds, clock, limit_s=0.01) == (None, [256, 256])


def test_the_probe_ends_where_a_turn_took_longer_than_expected(clock: Clock) -> None:
    """The first runs are fast, then the machine gets busy: one turn, not three."""
    calls: list[int] = []

    class Slowing(Timed):
        def run(self, encoded: Sequence[Encoded], *rest: Any) -> Any:
            self.per_token = 1e-6 if len(calls) < 2 else 1.0
            return super().run(encoded, *rest)

    found = probe_batch_tokens(
        lambda b: Slowing(1e-6, calls, b, clock),
        400,
        device=torch.device("cpu"),
        candidates=(256, 512),
        limit_s=1.0,
    )
    assert found == 256
    assert calls == [256, 256, 256, 512]


def test_a_budget_that_a_gpu_does_not_hold_is_left_out(clock: Clock) -> None:
    calls: list[int] = []

    class Full(Timed):
        def run(self, encoded: Sequence[Encoded], *rest: Any) -> Any:
            # the memory ends at 40,000 tokens of the longest sequences
            if len(encoded) * len(encoded[0]) > 40_000 and len(encoded[0]) == 500:
                raise torch.OutOfMemoryError("out of memory")
            return super().run(encoded, *rest)

    found = probe_batch_tokens(
        lambda b: Full(1e-3 / b, calls, b, clock), 400, device=torch.device("cuda"), longest=500
    )
    assert found == 32768
    assert max(calls) == 32768


def test_tuning_is_remembered_and_used(model: Scorer, tmp_path: Path) -> None:
    assert load_batch_tokens(model.model) is None
    assert model.batch_tokens == CPU_BATCH_TOKENS
    before = model.score(SOME)
    found = model.tune()
    assert found in budget.CPU_CANDIDATES
    assert model.batch_tokens == found == load_batch_tokens(model.model)
    np.testing.assert_allclose(model.score(SOME), before, atol=1e-5)
    remember_batch_tokens(model.model, 777)
    assert Scorer(model.model).batch_tokens == 777
    assert Scorer(model.model, batch_tokens=64).batch_tokens == 64
    stored = json.loads((tmp_path / "cache" / "dear" / "budget.json").read_text())
    assert list(stored.values()) == [777]
    np.testing.assert_allclose(Scorer(model.model).score(SOME), before, atol=1e-5)


def test_each_shape_of_model_and_number_of_threads_has_its_own(
    bert: Scorer, tmp_path: Path
) -> None:
    remember_batch_tokens(bert.model, 100)
    folder = tmp_path / "other"
    make("bert", num_hidden_layers=2).save_pretrained(folder)
    bert.model.tokenizer.save_pretrained(folder)
    other = load_scoring_model(folder, contract=DEAR, dtype="float32")
    assert load_batch_tokens(other) is None
    remember_batch_tokens(other, 200)
    assert (load_batch_tokens(bert.model), load_batch_tokens(other)) == (100, 200)
    number = torch.get_num_threads()
    torch.set_num_threads(number + 1)
    try:
        assert load_batch_tokens(bert.model) is None
    finally:
        torch.set_num_threads(number)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[1]", b"{", b'{"KEY": "many"}', None])
def test_a_damaged_file_is_ignored_and_written_anew(
    content: bytes | None, bert: Scorer, tmp_path: Path
) -> None:
    file = tmp_path / "cache" / "dear" / "budget.json"
    remember_batch_tokens(bert.model, 100)
    key = next(iter(json.loads(file.read_text())))
    damaged = json.dumps({key: -3}).encode() if content is None else content
    file.write_bytes(damaged.replace(b'"KEY"', json.dumps(key).encode()))
    assert load_batch_tokens(bert.model) is None
    assert Scorer(bert.model).batch_tokens == CPU_BATCH_TOKENS
    remember_batch_tokens(bert.model, 200)
    assert load_batch_tokens(bert.model) == 200


def test_a_cache_that_cannot_be_written_is_no_error(
    bert: Scorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "no folder"
    place.write_text("a file where the folder should be")
    monkeypatch.setenv("DEAR_CACHE", str(place))
    found = bert.tune(limit_s=2)
    assert bert.batch_tokens == found
    assert load_batch_tokens(bert.model) is None
