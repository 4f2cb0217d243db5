"""Batches side by side, one on each stream of a runtime's graph."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dear.checkpoints.threads import FairPool
from dear.scoring.batching import Grid, Progress, padded, token_batches
from dear.scoring.encoding import Encoded

Feed = Mapping[str, NDArray[Any]]


class Request(Protocol):
    """One place for a batch that is being computed."""

    def start(self, feed: Feed) -> None: ...
    def wait(self) -> NDArray[np.float32]:
        """float32 (B, …), a row for each sequence."""
        ...


class Streams:
    """Runs batches through a graph, as many at once as it has streams.

    requests: places for batches: one more than there are streams, so that none of them waits for
        its next batch to be made.  inputs: names of the graph's inputs.
    """

    def __init__(
        self, requests: Iterable[Request], *, inputs: Iterable[str], pad_id: int, grid: Grid
    ) -> None:
        # handed out in the order of asking: no thread waits for another's whole request
        self._requests: FairPool[Request] = FairPool(requests)
        self._inputs = frozenset(inputs)
        self._pad_id = pad_id
        self._grid = grid

    def run(
        self,
        encoded: Sequence[Encoded],
        *,
        budget: int,
        progress: Progress | None = None,
        total: int | None = None,
        more: Feed | None = None,
    ) -> NDArray[np.float32]:
        """float32 (n, …), a row for each sequence, in the order of `encoded`.

        budget: padded tokens in a batch.  progress: in proportion to `total`, n where None.
        more: inputs that every batch gets beside its tokens.
        """
        total = len(encoded) if total is None else total
        found: dict[int, NDArray[np.float32]] = {}
        at_work: deque[tuple[Request, list[int]]] = deque()

        def finish() -> None:
            request, rows = at_work.popleft()
            try:
                found.update(zip(rows, request.wait(), strict=True))
            finally:
                self._requests.give(request)
            if progress is not None:
                progress(len(found) * total // len(encoded), total)

        try:
            for rows in token_batches([len(one) for one in encoded], budget, self._grid):
                feed = {**self._feed([encoded[i] for i in rows]), **(more or {})}
                # nobody waits for a request who holds one: so all of them come back
                while (request := self._requests.take_free()) is None and at_work:
                    finish()
                request = self._requests.take() if request is None else request
                try:
                    request.start(feed)
                except BaseException:
                    self._requests.give(request)
                    raise
                at_work.append((request, rows))
            while at_work:
                finish()
        finally:
            for request, _ in at_work:  # of an error's batch, or of `progress`
                with contextlib.suppress(Exception):
                    request.wait()
                self._requests.give(request)
        return np.stack([found[i] for i in range(len(encoded))])

    def _feed(self, encoded: Sequence[Encoded]) -> dict[str, NDArray[np.int64]]:
        width = self._grid.widened(max(map(len, encoded)))
        ids, mask, types = padded(encoded, pad_id=self._pad_id, width=width)
        feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
        return {name: array for name, array in feed.items() if name in self._inputs}


def shared_budget(lengths: Sequence[int], budget: int, streams: int) -> int:
    """Tokens in a batch, `budget` or fewer, so that every stream gets as many batches.

    With few batches it counts: 1.5 of them on two streams take as long as 2.
    """
    total = sum(lengths)
    batches = -(-total // budget)
    batches = -(-batches // streams) * streams
    if not batches:
        return budget
    # a batch holds whole sequences, so it ends up to one below the budget
    return min(budget, -(-total // batches) + max(lengths) // 2)


class ThreadedRequest:
    """For a runtime that computes in the thread that calls it.

    submit: of an executor with a thread for each stream.
    """

    def __init__(
        self, work: Callable[[Feed], NDArray[np.float32]], submit: Callable[..., Any]
    ) -> None:
        self._work, self._submit = work, submit
        self._future: Any = None

    def start(self, feed: Feed) -> None:
        self._future = self._submit(self._work, feed)

    def wait(self) -> NDArray[np.float32]:
        return self._future.result()  # type: ignore[no-any-return]
