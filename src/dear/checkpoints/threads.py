"""How threads share a model.

Everything here may be called by many threads at once: `Scorer`, `BiEncoder`, `ZeroShot`,
`ListReader`, both sides of a `Backbone`, `ScorerPool`, and every Ranker on top of
them. A call gives the bits that it gives alone, because its batches are cut from its own pairs
and nothing of another call is in force while they are computed. Five rules see to that:

1. A forward pass has its model to itself, inside `exclusive(model)`. What a pass depends on is
   set on the model, which threads share: how it attends (one configuration), hooks that drop rows
   or read states, which LoRA adapter is active. It is set, used and taken back in one turn.
2. A turn is one batch, never a request: a small request waits for one batch of each of the
   others. Turns are given in the order in which they were asked for.
3. A call of a tokenizer has it to itself, inside `tokenize`: truncation and the reading of
   special tokens are settings of the tokenizer, not of the call. Tokenising one request and
   computing another go on side by side.
4. Nobody else's code runs inside a turn, neither callbacks nor other locks of ours but a
   tokenizer's, which takes no other. So there is no order of locks to keep, and no deadlock.
5. One model is loaded at a time, under `LOADING`: transformers sets PyTorch's default dtype and
   replaces functions of it for a moment, for the whole process.

One pass at a time costs nothing on a processor: PyTorch computes a pass on all of its threads,
and eight passes side by side would only take them from each other (benchmarks/threads.py). What
a model counts, such as `tokens_scored`, it counts for all threads together.
"""

from __future__ import annotations

import ctypes
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ContextDecorator, contextmanager
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

from dear.checkpoints.wrappers import bare_model
from dear.errors import DataError, excerpt

T = TypeVar("T")


class FairPool(Generic[T]):
    """Things that threads borrow, each by one at a time: who asked first is served first.

    A thread that has given its thing back may get it again before those that wait, where the lock
    is a plain one: with three busy threads a fourth waited for nine of their turns instead of
    three.
    """

    def __init__(self, things: Iterable[T]) -> None:
        self._free = deque(things)
        self._waiting: deque[SimpleQueue[T]] = deque()
        self._guard = threading.Lock()

    def take(self) -> T:
        """A thing, as soon as one is free and everybody who asked before has one."""
        place: SimpleQueue[T] = SimpleQueue()
        try:
            with self._guard:
                if self._free:
                    return self._free.popleft()
                self._waiting.append(place)
            return place.get()
        except BaseException:  # Ctrl-C
            with self._guard:
                if place in self._waiting:
                    self._waiting.remove(place)
            if not place.empty():  # given at the same moment
                self.give(place.get())
            raise

    def take_free(self) -> T | None:
        """A thing that nobody has and nobody waits for; None where there is none."""
        with self._guard:
            return self._free.popleft() if self._free else None

    def give(self, thing: T) -> None:
        """Back to the pool, or on to who waits longest."""
        with self._guard:
            if self._waiting:
                self._waiting.popleft().put(thing)
            else:
                self._free.append(thing)


class FairLock(ContextDecorator):
    """A lock that is given in the order of asking; its holder may take it again."""

    def __init__(self) -> None:
        self._turn = FairPool([None])
        self._holder: int | None = None
        self._depth = 0

    @property
    def mine(self) -> bool:
        """Whether this thread holds it."""
        return self._holder == threading.get_ident()

    def __enter__(self) -> None:
        if not self.mine:
            self._turn.take()
            self._holder = threading.get_ident()
        self._depth += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._depth -= 1
        if not self._depth:
            self._holder = None
            self._turn.give(None)


LOADING = FairLock()
"""Held, as a block or by a decorated function, while a model is built and its weights are read."""

_locks: WeakKeyDictionary[Any, FairLock] = WeakKeyDictionary()
_guard = threading.Lock()


@contextmanager
def exclusive(model: Any) -> Iterator[None]:
    """A turn: inside, the transformers model, wrapped or not, is this thread's alone.

    Models that share their body share their turns, and each begins with what `before_passes` was
    told of its model.
    """
    bare = bare_model(model)
    with _lock_of(getattr(bare, "base_model", bare)):
        prepare = getattr(bare, "dear_before_pass", None)
        if prepare is not None:
            prepare()
        yield


def before_passes(model: Any, prepare: Any) -> None:
    """Call `prepare()` at the beginning of each turn of `model`: it puts its adapter in force."""
    bare_model(model).dear_before_pass = prepare


def tokenize(tokenizer: Any, *texts: Any, **options: Any) -> Any:
    """`tokenizer(*texts, **options)`, with no other thread's options.

    DataError: its regular expressions do not end on these texts.
    """
    letters = sum(len(t) if isinstance(t, str) else sum(map(len, t)) for t in texts)
    seconds = TOKENIZER_SECONDS + letters // TOKENIZED_A_SECOND
    with _lock_of(tokenizer):
        return in_time(lambda: tokenizer(*texts, **options), seconds, "the tokenizer")


TOKENIZER_SECONDS = 10
TOKENIZED_A_SECOND = 20_000
"""Seconds that a tokenizer has for a call, and characters for which it has one more: the slowest
reads 300,000 in a second."""


def in_time(work: Callable[[], T], seconds: int, what: str) -> T:
    """`work()` in a thread of its own, whose regular expressions and loops may have no end.

    DataError after so many seconds, of which one that the process slept through counts as one.
    Python code is ended then; what Rust computes goes on until the process ends.
    """
    done: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            done.append(work())
        except BaseException as error:  # of Rust: PanicException
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        for _ in range(seconds):
            thread.join(1)
            if not thread.is_alive():
                break
    except BaseException:  # Ctrl-C: Rust must not end while Python does
        thread.join(2)
        raise
    if thread.is_alive():
        stop = ctypes.pythonapi.PyThreadState_SetAsyncExc
        stop(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(SystemExit))
        raise DataError(f"{what} had not ended after {seconds} s")
    if failed:
        if type(failed[0]).__name__ == "PanicException":
            raise DataError(f"{what} failed: {excerpt(str(failed[0]))}")
        raise failed[0]
    return done[0]


def _lock_of(thing: Any) -> FairLock:
    with _guard:
        lock = _locks.get(thing)
        if lock is None:
            lock = _locks[thing] = FairLock()
        return lock
