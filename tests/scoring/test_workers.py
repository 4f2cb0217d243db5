"""A pool of processes scores as one does, and nothing that happens to a process hangs it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from shared_models import in_threads
from tiny_models import make, pairs, save, tokenizer_for

from dear.checkpoints.contract import DEAR, ScoringContract
from dear.errors import BackendError, ConfigError, ContractMismatch, DataError, DearError
from dear.scoring import worker
from dear.scoring.opening import open_model
from dear.scoring.workers import ScorerPool, _tasks, _threads

SOME = pairs(300, seed=8, longest=50)
POISON = ("x", "bank")
CPUS = ["cpu", "cpu"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A llama to which every text that holds `bank` gives no number."""
    model, tokenizer = make("llama"), tokenizer_for("llama")
    bank = tokenizer(" bank", add_special_tokens=False)["input_ids"][0]
    with torch.no_grad():
        model.get_input_embeddings().weight[bank] = torch.nan
    return save(tmp_path_factory.mktemp("pool") / "llama", model, tokenizer)


@pytest.fixture(scope="module")
def pool(folder: Path) -> Iterator[ScorerPool]:
    """Shared: no test may end it."""
    with ScorerPool(folder, devices=CPUS, contract=DEAR, dtype="float32") as pool:
        yield pool


def healthy() -> list[tuple[str, str]]:
    return [(q.replace("bank", ""), p.replace("bank", "")) for q, p in SOME]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def pids(pool: ScorerPool) -> list[int]:
    return [w.process.pid or 0 for w in pool._workers]


@given(
    st.lists(st.tuples(st.text(max_size=9), st.text(max_size=300)), min_size=1, max_size=400),
    st.integers(1, 5),
)
def test_tasks_hold_every_pair_once(some: list[tuple[str, str]], workers: int) -> None:
    tasks = _tasks(some, workers)
    assert sorted(i for t in tasks for i in range(t.start, t.stop)) == list(range(len(some)))
    assert 1 <= len(tasks) <= max(1, min(workers * 4, len(some) // 64))


def test_tasks_are_balanced_by_text() -> None:
    some = [("q", "word " * (100 if i < 500 else 1)) for i in range(4000)]
    tasks = _tasks(some, 2)
    sizes = [sum(len(q) + len(p) for q, p in some[t]) for t in tasks]
    assert len(tasks) == 8
    assert max(sizes) < 1.2 * min(sizes)
    assert len(_tasks([("q", "")] * 100_000, 1)) == 4


def test_processors_divide_the_threads() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(5)
    try:
        assert _threads(["cpu"]) == [5]
        assert _threads(CPUS) == [2, 2]
        assert _threads(["cpu"] * 9) == [1] * 9
    finally:
        torch.set_num_threads(before)


def test_an_error_keeps_its_class() -> None:
    for error in (DataError("x:1: y"), BackendError("z")):
        message = worker._error(error, "cpu")
        assert message[:1] == worker.ERROR
        again = worker.as_error(message[1:])
        assert (type(again), str(again)) == (type(error), str(error))
    other = worker.as_error(worker._error(MemoryError("one\ntwo"), "cuda:1")[1:])
    assert isinstance(other, BackendError)
    assert str(other) == "cuda:1: MemoryError: one"


def test_a_pool_of_no_or_unknown_devices_is_refused(folder: Path) -> None:
    for devices, words in (([], "one device or more"), (["cpu", "gpu7"], "no device 'gpu7'")):
        with pytest.raises(ConfigError, match=words):
            ScorerPool(folder, devices=devices)


@pytest.mark.slow
def test_a_pool_scores_as_one(pool: ScorerPool, folder: Path) -> None:
    alone = open_model(folder, contract=DEAR, dtype="float32", device="cpu")
    for field in ("name", "revision", "contract", "fingerprint", "parameters"):
        assert getattr(pool, field) == getattr(alone, field)
    assert isinstance(pool.contract, ScoringContract)
    rng = np.random.default_rng(0)
    picked = [healthy()[i] for i in rng.integers(0, len(SOME), 700)]
    expected = alone.score(picked)
    assert expected.std() > 0.1
    seen: list[tuple[int, int]] = []
    scores = pool.score(picked, lambda *now: seen.append(now))
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (700, 700)
    np.testing.assert_allclose(pool.score(picked[:3]), expected[:3], atol=1e-5)
    assert pool.score([]).shape == (0,)
    odd = [("\ud800 lone", "\x00 é 漢字 😀")]
    odd_alone: object
    try:
        odd_alone = alone.score(odd)
    except Exception as error:
        with pytest.raises(BackendError, match=type(error).__name__):
            pool.score(odd)
    else:
        np.testing.assert_allclose(pool.score(odd), odd_alone, atol=1e-5)


@pytest.mark.slow
def test_the_same_calls_give_the_same_bits(pool: ScorerPool) -> None:
    some = healthy()
    expected = [pool.score(some[i : i + 40]).tobytes() for i in range(4)]
    work = [partial(pool.score, some[i % 4 : i % 4 + 40]) for i in range(8)]
    for _ in range(5):
        assert [found.tobytes() for found in in_threads(work)] == expected * 2


@pytest.mark.slow
def test_an_error_of_a_pair_leaves_the_pool_whole(pool: ScorerPool) -> None:
    before = pids(pool)
    some = healthy()
    with pytest.raises(BackendError, match=r"nan for query 'x', passage 'bank'.*float32"):
        pool.score([*some[:200], POISON, *some[200:]])
    assert pids(pool) == before
    assert np.isfinite(pool.score(some)).all()


@pytest.mark.slow
def test_the_terminals_ctrl_c_is_the_parents(pool: ScorerPool) -> None:
    for pid in pids(pool):
        os.kill(pid, signal.SIGINT)
    assert np.isfinite(pool.score(healthy())).all()


@pytest.mark.slow
def test_a_killed_process_is_named_and_nothing_hangs(folder: Path) -> None:
    pool = ScorerPool(folder, devices=CPUS, contract=DEAR, dtype="float32")
    first, second = pids(pool)

    def kill(done: int, _total: int) -> None:
        if done:
            os.kill(second, signal.SIGKILL)

    started = time.monotonic()
    with pytest.raises(BackendError, match=r"^cpu: the process died at work \(SIGKILL\)"):
        pool.score(healthy() * 20, kill)
    # a tenth of a second on an idle machine
    assert time.monotonic() - started < 60
    assert not alive(first)
    assert not alive(second)
    with pytest.raises(BackendError, match="the pool of processes is closed"):
        pool.score(healthy())
    pool.close()


@pytest.mark.slow
def test_a_process_that_dies_idle_or_while_it_loads(folder: Path) -> None:
    pool = ScorerPool(folder, devices=["cpu"], contract=DEAR, dtype="float32")
    os.kill(pids(pool)[0], signal.SIGKILL)
    with pytest.raises(BackendError, match=r"^cpu: the process died at work \(SIGKILL\)"):
        pool.score(healthy())

    def kill_the_first_child() -> None:
        while not (new := [c for c in multiprocessing.active_children() if c not in others]):
            time.sleep(0.01)
        os.kill(new[0].pid or 0, signal.SIGKILL)

    others = multiprocessing.active_children()
    killer = threading.Thread(target=kill_the_first_child)
    killer.start()
    with pytest.raises(BackendError, match=r"^cpu: the process died before it was ready"):
        ScorerPool(folder, devices=CPUS, contract=DEAR, dtype="float32")
    killer.join()
    assert set(multiprocessing.active_children()) == set(others)  # kept in no order


INTERRUPTED = """
import os, signal, sys

from dear.checkpoints.contract import DEAR
from dear.scoring.workers import ScorerPool

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    pool = ScorerPool(sys.argv[1], devices=["cpu", "cpu"], contract=DEAR, dtype="float32")
    print(*[worker.process.pid for worker in pool._workers])
    try:
        pairs = [(f"query {i}", f"passage {i}") for i in range(4000)]
        pool.score(pairs, lambda done, total: os.kill(os.getpid(), signal.SIGINT))
    except KeyboardInterrupt:
        print("interrupted")
"""


@pytest.mark.slow
def test_ctrl_c_ends_the_processes(folder: Path, tmp_path: Path) -> None:
    # in a process of its own: the test runner minds SIGINT
    script = tmp_path / "interrupted.py"
    script.write_text(INTERRUPTED)
    done = subprocess.run(
        [sys.executable, str(script), str(folder)], capture_output=True, text=True, timeout=600
    )
    numbers, told = done.stdout.splitlines()
    assert told == "interrupted", done.stderr
    assert not any(alive(int(pid)) for pid in numbers.split())


@pytest.mark.slow
def test_a_model_that_does_not_load_says_why(tiny: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no model 'nothing-such'"):
        ScorerPool("nothing-such", devices=["cpu"])
    other = DEAR.with_dtype("float32")
    DEAR.save(save(tmp_path / "bert", make("bert"), tokenizer_for("bert")))
    shorter = ScoringContract(max_tokens=100, dtype=other.dtype)
    with pytest.raises(ContractMismatch, match="truncation") as caught:
        ScorerPool(tmp_path / "bert", devices=["cpu"], contract=shorter)
    assert isinstance(caught.value, DearError)


@pytest.mark.slow
def test_a_pool_that_another_thread_closes(folder: Path) -> None:
    """It ends when the job that is at work is done; the next one is told."""
    pool = ScorerPool(folder, devices=["cpu"], contract=DEAR, dtype="float32")
    expected = pool.score(healthy())
    begun = threading.Event()

    def close() -> None:
        assert begun.wait(60)
        pool.close()

    found, _ = in_threads([lambda: pool.score(healthy(), lambda *_: begun.set()), close])
    assert (found == expected).all()
    with pytest.raises(BackendError, match="closed"):
        pool.score(healthy())


@pytest.mark.slow
def test_a_pool_that_another_thread_ends_at_once(folder: Path) -> None:
    pool = ScorerPool(folder, devices=["cpu"], contract=DEAR, dtype="float32")
    begun = threading.Event()

    def score() -> None:
        with pytest.raises(BackendError, match="closed"):
            pool.score(healthy() * 20, lambda *_: begun.set())

    def close() -> None:
        assert begun.wait(60)
        pool.close(at_once=True)

    in_threads([score, close])


@pytest.mark.slow
def test_a_callback_can_not_wait_for_its_own_job(folder: Path) -> None:
    pool = ScorerPool(folder, devices=["cpu"], contract=DEAR, dtype="float32")
    with pytest.raises(ConfigError, match="scores with the pool that reports to it"):
        pool.score(healthy(), lambda _done, _total: [pool.score(healthy())])
    # what was at work is no part of the next job
    with pytest.raises(BackendError, match="closed"):
        pool.score(healthy()[:3])
