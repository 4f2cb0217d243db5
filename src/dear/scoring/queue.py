"""Pairs of several requests in one batch: small requests that wait together are scored together.

A request that fills a batch of its own is computed as it is, and gives the bits that it gives
alone. Smaller ones, such as a web request's few passages, would each start a batch that is mostly
empty: those that wait while another is computed are taken together, in the order of arrival, up to
the model's token budget. A request that waits for nobody is computed at once, alone. There is no
timer and no thread: whoever waits longest computes for the others.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from dear.scoring.batching import Progress
    from dear.scoring.encoding import Pair
    from dear.scoring.opening import PairModel
    from dear.scoring.scorer import Prepared

SMALL_PAIRS = 256
"""A request of more pairs is not looked at: it fills batches of its own."""


@runtime_checkable
class SharesBatches(Protocol):
    """A model that computes several requests in the same batches: a `Scorer`."""

    batch_tokens: int

    def prepare(self, pairs: Sequence[Pair]) -> Prepared: ...
    def score_prepared(
        self, requests: Sequence[Prepared], progress: Progress | None = None
    ) -> list[NDArray[np.float32]]: ...


@dataclass(slots=True, eq=False)
class _Request:
    """tokens: of its sequences."""

    prepared: Prepared
    tokens: int
    scores: NDArray[np.float32] | None = None
    error: Exception | None = None

    @property
    def done(self) -> bool:
        return self.scores is not None or self.error is not None


class PairQueue:
    """What the Rankers of one model score their pairs through, from any number of threads.

    share: whether requests are computed together. None: in float32 alone, where company in a batch
        moves a score by 1e-5 at most; in bfloat16 it shows in the third decimal, and who wants
        the speed says so.
    shared: requests that were computed together with another one, so far.
    """

    def __init__(self, model: PairModel, *, share: bool | None = None) -> None:
        self.model = model
        dtype = getattr(model.contract, "dtype", None)
        self.share = dtype == "float32" if share is None else share
        self.shared = 0
        self._waiting: deque[_Request] = deque()
        self._changed = threading.Condition()
        self._busy = False

    def score(self, pairs: Sequence[Pair], progress: Progress | None = None) -> NDArray[np.float32]:
        """float32 (len(pairs),), in the order given: what `model.score` gives, to the rounding of
        the dtype where a small request shares a batch."""
        model = self.model
        small = self.share and 0 < len(pairs) <= SMALL_PAIRS
        if not small or not isinstance(model, SharesBatches):
            return model.score(pairs, progress)
        prepared = model.prepare(pairs)
        tokens = prepared.tokens
        if tokens >= model.batch_tokens:
            return model.score_prepared([prepared], progress)[0]
        request = _Request(prepared, tokens)
        self._serve(request, model)
        if request.error is not None:
            raise request.error
        if progress is not None:
            progress(len(pairs), len(pairs))
        assert request.scores is not None
        return request.scores

    def _serve(self, request: _Request, model: SharesBatches) -> None:
        """Returns when the request is done, by this thread or by another."""
        with self._changed:
            self._waiting.append(request)
        group: list[_Request] = []
        try:
            while True:
                with self._changed:
                    while self._busy and not request.done:
                        self._changed.wait()
                    if request.done:
                        return
                    group = self._take(model.batch_tokens)
                    self._busy = True
                _compute(group, model)
                self._end(group)
        except BaseException:  # Ctrl-C in one thread: the others go on
            with self._changed:
                if request in self._waiting:
                    self._waiting.remove(request)
                left = [one for one in group if one is not request and not one.done]
                self._waiting.extendleft(reversed(left))
            if group:
                self._end(group)
            raise

    def _take(self, budget: int) -> list[_Request]:
        """Those that have waited longest, as many as a batch holds."""
        group = [self._waiting.popleft()]
        tokens = group[0].tokens
        while self._waiting and tokens + self._waiting[0].tokens <= budget:
            group.append(self._waiting.popleft())
            tokens += group[-1].tokens
        if len(group) > 1:
            self.shared += len(group)
        return group

    def _end(self, group: list[_Request]) -> None:
        with self._changed:
            group.clear()
            self._busy = False
            self._changed.notify_all()


def _compute(group: Sequence[_Request], model: SharesBatches) -> None:
    """An error of one request is that request's alone."""
    try:
        found = model.score_prepared([request.prepared for request in group])
    except Exception as error:
        if len(group) == 1:
            group[0].error = error
            return
        for request in group:
            _compute([request], model)
        return
    for request, scores in zip(group, found, strict=True):
        request.scores = scores


_queues: WeakKeyDictionary[Any, PairQueue] = WeakKeyDictionary()
_guard = threading.Lock()


def queue_of(model: PairModel) -> PairQueue:
    """The model's queue: one, however many Rankers are made of it."""
    with _guard:
        found = _queues.get(model)
        if found is None:
            found = _queues[model] = PairQueue(model)
        return found
