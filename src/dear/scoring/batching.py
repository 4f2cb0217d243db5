"""Sequences to batches: token budgets, padding, the order put back, and chunks made ready ahead."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from dear.errors import ConfigError, NotFinite, excerpt
from dear.scoring.encoding import Encoded, Pair

Progress = Callable[[int, int], None]
"""Called with (pairs done, pairs in all)."""

CPU_BATCH_TOKENS = 2048
"""Past about 4,000 tokens a batch falls out of a CPU's cache and gets slower."""

GPU_BATCH_TOKENS = 32768

START_SHARE = 0.02
"""Starting a batch costs this share of a full one (measured: 37 of 2,048 tokens, a 135M model)."""

EXACT_BATCHES = 1024
"""Up to so many sequences, the cuts between batches are the best there are."""

CHUNK_PAIRS = 8192
"""Pairs that are tokenised and sorted by length at once. Of MS MARCO's lengths, sorting so many
leaves 0.2 % padding at 2,048 tokens a batch and 2.9 % at 32,768."""

T = TypeVar("T", bound=Sized)
Item = TypeVar("Item")
Made = TypeVar("Made")


class Device(Protocol):
    """A torch.device, or what stands for one where there is no PyTorch."""

    @property
    def type(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Grid:
    """Shapes of batches, few enough to come again.

    Where a processor multiplies matrices of low precision, oneDNN compiles a kernel for each new
    shape (benchmarks/inside.py, `shapes`).

    width, rows: what a batch's tokens and sequences are multiples of; sequences only where more
        follow.  longest: no batch is made wider than this for it.
    equal: a batch holds sequences of one length, so that nothing is padded.
    """

    width: int = 1
    rows: int = 1
    longest: int | None = None
    equal: bool = False

    def widened(self, length: int) -> int:
        """Tokens in the batch of a longest sequence of `length`."""
        rounded = -(-length // self.width) * self.width
        # a model may have no position behind its contract's last
        return rounded if self.longest is None else max(length, min(rounded, self.longest))


ANY_SHAPE = Grid()
ONE_LENGTH = Grid(equal=True)


def grid_for(device: Device, dtype: str, longest: int) -> Grid:
    """ANY_SHAPE where kernels take any shape, or are not compiled for one."""
    if device.type == "cpu" and dtype in ("bfloat16", "float16"):
        return Grid(width=8, rows=4, longest=longest)
    return ANY_SHAPE


def pick_batch_tokens(batch_tokens: int | None, device: Device) -> int:
    """Padded tokens in a batch: as asked, or what suits the device."""
    if batch_tokens is None:
        return CPU_BATCH_TOKENS if device.type == "cpu" else GPU_BATCH_TOKENS
    if batch_tokens < 1:
        raise ConfigError(f"batch_tokens must be 1 or more, not {batch_tokens}")
    return batch_tokens


def chunk_pairs(batch_tokens: int) -> int:
    """Pairs in a chunk: CHUNK_PAIRS, and more for batches so large that they would pad more."""
    return max(CHUNK_PAIRS, batch_tokens // 4)


def token_batches(lengths: Sequence[int], budget: int, grid: Grid = ANY_SHAPE) -> list[list[int]]:
    """Indices in batches of at most `budget` padded tokens (one sequence may exceed it alone).

    Longest first, so that the largest batch comes first and a lack of memory shows at once. A few
    sequences, such as the candidates of one query, are cut where the padding is least; for many
    the lengths lie so close that full batches are as good.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    if grid.equal:
        return [
            rows[at : at + most]
            for length, group in itertools.groupby(order, key=lambda i: lengths[i])
            for rows, most in [(list(group), max(1, budget // max(1, length)))]
            for at in range(0, len(rows), most)
        ]
    tall = [grid.widened(lengths[i]) for i in order]
    cut = _least_cost if len(tall) <= EXACT_BATCHES else _full
    cuts = cut(tall, budget, grid.rows)
    return [order[a:b] for a, b in itertools.pairwise([*cuts, len(order)])] if order else []


def _full(tall: Sequence[int], budget: int, rows: int) -> list[int]:
    """Where batches begin that are as full as can be. tall: lengths, falling."""
    cuts = [0]
    while True:
        most = max(1, budget // max(1, tall[cuts[-1]]))
        following = cuts[-1] + (most // rows * rows or most)
        if following >= len(tall):
            return cuts
        cuts.append(following)


def _least_cost(tall: Sequence[int], budget: int, rows: int) -> list[int]:
    """Where batches begin that compute the fewest tokens, padding and starts included."""
    start_tokens = budget * START_SHARE
    best = [0.0]
    begin = [0]
    for stop in range(1, len(tall) + 1):
        least, place = math.inf, stop - 1
        for first in range(stop - 1, -1, -1):
            padded = tall[first] * (stop - first)
            if padded > budget and first < stop - 1:
                break
            if (stop - first) % rows and stop < len(tall) and tall[first] * rows <= budget:
                continue
            cost = best[first] + padded + start_tokens
            if cost < least:
                least, place = cost, first
        best.append(least)
        begin.append(place)
    cuts = []
    stop = len(tall)
    while stop:
        stop = begin[stop]
        cuts.append(stop)
    return cuts[::-1]


def in_batches(
    items: Sequence[T],
    budget: int,
    forward: Callable[[Sequence[T]], NDArray[np.float32]],
    progress: Progress | None = None,
    total: int | None = None,
    grid: Grid = ANY_SHAPE,
) -> NDArray[np.float32]:
    """`forward` over token-budget batches of one item or more; its rows in the order of `items`.

    progress: called after each batch, in proportion to `total` (the number of items where None).
    """
    total = len(items) if total is None else total
    batches = token_batches([len(item) for item in items], budget, grid)
    parts, done = [], 0
    for batch in batches:
        parts.append(forward([items[i] for i in batch]))
        done += len(batch)
        if progress is not None:
            progress(done * total // len(items), total)
    order = np.argsort([i for batch in batches for i in batch])
    return np.concatenate(parts)[order]


def in_chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of `size` items, the last of what is left. ConfigError for a size below 1."""
    if size < 1:
        raise ConfigError(f"a chunk holds 1 pair or more, not {size}")
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def ahead(
    items: Iterable[Item], make: Callable[[Item], Made]
) -> Generator[tuple[Item, Made], None, None]:
    """(item, make(item)) in order; while the caller uses one, a thread makes the next.

    At most two items are held; none of them may be None. `items` is read in the caller's thread,
    one item ahead, and an error of it is raised after the items before it were given. A single
    item takes no thread. Close the generator (contextlib.closing) to end the thread.
    """
    iterator = iter(items)
    present = next(iterator, None)
    if present is None:
        return
    made = make(present)
    failure: Exception | None = None
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="dear-ahead") as thread:
        while True:
            try:
                following = next(iterator, None)
            except Exception as error:
                failure, following = error, None
            if following is None:
                break
            future = thread.submit(make, following)  # the thread starts with the first of these
            yield present, made
            del present, made
            present, made = following, future.result()
    yield present, made
    if failure is not None:
        raise failure


def require_finite(name: str, scores: NDArray[np.float32], pairs: Sequence[Pair]) -> None:
    """NotFinite that shows the first pair whose score is not finite."""
    bad = np.flatnonzero(~np.isfinite(scores))
    if len(bad):
        query, passage = pairs[int(bad[0])]
        raise NotFinite(
            f"{name}: score {scores[bad[0]]} for query {excerpt(query)}, passage "
            f"{excerpt(passage)}; try dtype float32"
        )


def padded(
    encoded: Sequence[Encoded], *, pad_id: int, side: str = "right", width: int | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """(input_ids, attention_mask, token_type_ids), each int64 (B, T); T is that of the longest
    sequence, or `width`."""
    if width is None:
        width = max(len(e) for e in encoded)
    ids = np.full((len(encoded), width), pad_id, dtype=np.int64)
    mask = np.zeros((len(encoded), width), dtype=np.int64)
    types = np.zeros((len(encoded), width), dtype=np.int64)
    for row, item in enumerate(encoded):
        n = len(item)
        where = slice(0, n) if side == "right" else slice(width - n, width)
        ids[row, where] = item.ids
        mask[row, where] = 1
        types[row, where] = item.types
    return ids, mask, types
