"""Requests of many threads to one model, in turns of a batch: the shortest first, together where
they fit.

A request is cut into the batches that it would have alone. Between two batches the next one is
that of the request which has waited longest for its size, so that all are slowed by about the same
factor (highest response ratio next, Brinch Hansen 1971): small ones do not wait for large ones,
large ones not for ever, and equal ones go in the order of arrival.
What room a batch leaves is filled with others that fit, in float32; a request that waits for nobody
is computed at once, alone. A request whose `stop` says so takes no further batch. There is no timer
and no thread: whoever asked computes for all until its own request is done, and hands over.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from dear.records import PairRead

if TYPE_CHECKING:
    from dear.scoring.batching import Progress
    from dear.scoring.encoding import Pair
    from dear.scoring.opening import PairModel
    from dear.scoring.scorer import Prepared

SMALL_PAIRS = 256
"""A request of more pairs that nobody may stop is not looked at: it fills batches of its own."""
LIMITED_PAIRS = 32
"""Pairs that are scored between two looks at `stop`, by models that share no batches."""
STARTING_TOKENS = 64
"""What beginning a batch costs: a request of one word is not a thousandth of others."""

Stop: TypeAlias = Callable[[], bool]
"""Asked between batches; True ends the request with what is scored by then. It may raise, which
ends the request with that error."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """scores: float32 (n,), NaN where `stop` came first.  read: of each pair; empty for models that
    do not say."""

    scores: NDArray[np.float32]
    read: Sequence[PairRead] = ()


class _Stopped(Exception):
    """`stop` said so, between two batches of a model of its own."""


@runtime_checkable
class SharesBatches(Protocol):
    """A model that computes several requests in the same batches: a `Scorer`."""

    turn_tokens: int

    def prepare(self, pairs: Sequence[Pair]) -> Prepared: ...
    def pieces(self, prepared: Prepared, *, in_order: bool) -> list[list[int]]: ...
    def score_pieces(
        self, pieces: Sequence[tuple[Prepared, Sequence[int]]]
    ) -> list[NDArray[np.float32]]: ...


@dataclass(slots=True, eq=False)
class _Request:
    """pieces: positions of its sequences, a batch each, the next one last.  came: by
    `time.monotonic()`.  wake: set when it is done, or when its thread is to compute for the others.
    """

    prepared: Prepared
    pieces: list[list[int]]
    scores: NDArray[np.float32]
    came: float
    stop: Stop | None
    wake: threading.Event = field(default_factory=threading.Event)
    error: Exception | None = None

    @property
    def done(self) -> bool:
        return not self.pieces or self.error is not None

    def waited(self, now: float) -> float:
        """For its size."""
        return (now - self.came) / (self.prepared.tokens + STARTING_TOKENS)

    @property
    def tokens(self) -> int:
        """Of the next piece."""
        return sum(len(self.prepared.encoded[i]) for i in self.pieces[-1])


class PairQueue:
    """What the Rankers of one model score their pairs through, from any number of threads.

    share: whether requests are computed together. None: in float32 alone, where company in a batch
        moves a score by 1e-5 at most; in bfloat16 it shows in the third decimal, and who wants
        the speed says so.
    shared: pieces that were computed together with another one, so far.
    """

    def __init__(self, model: PairModel, *, share: bool | None = None) -> None:
        self.model = model
        dtype = getattr(model.contract, "dtype", None)
        self.share = dtype == "float32" if share is None else share
        self.shared = 0
        self._waiting: list[_Request] = []
        self._guard = threading.Lock()
        self._busy = False

    def score(
        self,
        pairs: Sequence[Pair],
        progress: Progress | None = None,
        *,
        stop: Stop | None = None,
        in_order: bool = False,
    ) -> Scored:
        """Scores in the order given: what `model.score` gives, to the rounding of the dtype where
        pieces of several requests share a batch.

        in_order: the first pairs are scored first, so that what `stop` leaves out is the end.
        """
        model = self.model
        small = self.share and len(pairs) <= SMALL_PAIRS
        if not pairs or not isinstance(model, SharesBatches) or not (small or stop):
            return self._direct(pairs, progress, stop, in_order)
        prepared = model.prepare(pairs)
        request = _Request(
            prepared,
            model.pieces(prepared, in_order=in_order)[::-1],
            np.full(len(prepared.encoded), np.nan, dtype=np.float32),
            time.monotonic(),
            stop,
        )
        self._serve(request, model)
        if request.error is not None:
            raise request.error
        if progress is not None:
            progress(len(pairs), len(pairs))
        return Scored(scores=request.scores[prepared.back], read=prepared.read)

    def _direct(
        self, pairs: Sequence[Pair], progress: Progress | None, stop: Stop | None, in_order: bool
    ) -> Scored:
        """By the model's own batches, whose turns its lock gives to threads."""

        def report(done: int, total: int) -> None:
            if stop is not None and stop():
                raise _Stopped
            if progress is not None:
                progress(done, total)

        def score(some: Sequence[Pair], report: Progress | None) -> Scored:
            read_too = getattr(self.model, "score_read", None)
            if read_too is None:
                return Scored(scores=self.model.score(some, report))
            return read_too(some, report)  # type: ignore[no-any-return]

        scores = np.full(len(pairs), np.nan, dtype=np.float32)
        if stop is None or not in_order:
            try:
                return score(pairs, progress if stop is None else report)
            except _Stopped:
                return Scored(scores=scores)
        read: list[PairRead] = []
        for at in range(0, len(pairs), LIMITED_PAIRS):
            if stop():
                break
            found = score(pairs[at : at + LIMITED_PAIRS], None)
            scores[at : at + LIMITED_PAIRS] = found.scores
            read += found.read
        return Scored(scores=scores, read=read)

    # -- turns ---------------------------------------------------------------------------------

    def _serve(self, request: _Request, model: SharesBatches) -> None:
        """Returns when the request is done, by this thread or by another."""
        with self._guard:
            self._waiting.append(request)
            leads = not self._busy
            self._busy = True
        try:
            if not leads:
                request.wake.wait()
                if request.done:
                    return
            while not request.done:
                self._turn(model)
        except BaseException:  # Ctrl-C in one thread: the others go on
            with self._guard:
                was_woken = request.wake.is_set()
                if request in self._waiting:
                    self._waiting.remove(request)
                    leads = leads or was_woken
            if leads:
                self._hand_over()
            raise
        self._hand_over()

    def _hand_over(self) -> None:
        """Somebody else computes from now on, if anybody waits."""
        with self._guard:
            heir = self._waiting[0] if self._waiting else None
            self._busy = heir is not None
            if heir is not None:
                heir.wake.set()

    def _turn(self, model: SharesBatches) -> None:
        """One batch of the waiting requests."""
        self._ask_to_stop()
        with self._guard:
            group = self._group(model.turn_tokens)
        if not group:
            return
        _compute([(request, request.pieces[-1]) for request in group], model)
        with self._guard:
            for request in group:
                request.pieces.pop()
            self._leave([request for request in group if request.done])

    def _ask_to_stop(self) -> None:
        with self._guard:
            asked = [request for request in self._waiting if request.stop is not None]
        for request in asked:
            assert request.stop is not None
            try:
                if not request.stop():
                    continue
                request.pieces.clear()
            except Exception as error:
                request.error = error
            with self._guard:
                self._leave([request])

    def _leave(self, done: Sequence[_Request]) -> None:
        for request in done:
            self._waiting.remove(request)
            request.wake.set()

    def _group(self, budget: int) -> list[_Request]:
        """Those whose next pieces make a batch."""
        now = time.monotonic()
        in_line = sorted(self._waiting, key=lambda request: -request.waited(now))
        if not self.share:
            return in_line[:1]
        group, tokens = in_line[:1], sum(request.tokens for request in in_line[:1])
        for request in in_line[1:]:
            if tokens + request.tokens <= budget:
                group.append(request)
                tokens += request.tokens
        if len(group) > 1:
            self.shared += len(group)
        return group


def _compute(group: Sequence[tuple[_Request, list[int]]], model: SharesBatches) -> None:
    """An error of one request is that request's alone."""
    try:
        found = model.score_pieces([(request.prepared, piece) for request, piece in group])
    except Exception as error:
        if len(group) == 1:
            group[0][0].error = error
            return
        for one in group:
            _compute([one], model)
        return
    for (request, piece), scores in zip(group, found, strict=True):
        request.scores[piece] = scores


_queues: WeakKeyDictionary[Any, PairQueue] = WeakKeyDictionary()
_queues_guard = threading.Lock()


def queue_of(model: PairModel) -> PairQueue:
    """The model's queue: one, however many Rankers are made of it."""
    with _queues_guard:
        found = _queues.get(model)
        if found is None:
            found = _queues[model] = PairQueue(model)
        return found
