"""Sequences to batches: token budgets, padding, and the order put back."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Sized
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from dear.errors import BackendError, ConfigError, excerpt
from dear.models.encoding import Encoded, Pair

Progress = Callable[[int, int], None]
"""Called with (pairs done, pairs in all)."""

CPU_BATCH_TOKENS = 2048
"""Past about 4,000 tokens a batch falls out of a CPU's cache and gets slower."""

GPU_BATCH_TOKENS = 32768


T = TypeVar("T", bound=Sized)


def pick_batch_tokens(batch_tokens: int | None, device: torch.device) -> int:
    """Padded tokens in a batch: as asked, or what suits the device."""
    if batch_tokens is None:
        return CPU_BATCH_TOKENS if device.type == "cpu" else GPU_BATCH_TOKENS
    if batch_tokens < 1:
        raise ConfigError(f"batch_tokens must be 1 or more, not {batch_tokens}")
    return batch_tokens


def token_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Indices in batches of at most `budget` padded tokens (one sequence may exceed it alone).

    Longest first, so that the largest batch comes first and a lack of memory shows at once.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    batches: list[list[int]] = []
    current: list[int] = []
    for index in order:
        if current and lengths[current[0]] * (len(current) + 1) > budget:
            batches.append(current)
            current = []
        current.append(index)
    if current:
        batches.append(current)
    return batches


def in_batches(
    items: Sequence[T],
    budget: int,
    forward: Callable[[Sequence[T]], NDArray[np.float32]],
    progress: Progress | None = None,
    total: int | None = None,
) -> NDArray[np.float32]:
    """`forward` over token-budget batches of one item or more; its rows in the order of `items`.

    progress: called after each batch, in proportion to `total` (the number of items where None).
    """
    total = len(items) if total is None else total
    batches = token_batches([len(item) for item in items], budget)
    parts, done = [], 0
    for batch in batches:
        parts.append(forward([items[i] for i in batch]))
        done += len(batch)
        if progress is not None:
            progress(done * total // len(items), total)
    order = np.argsort([i for batch in batches for i in batch])
    return np.concatenate(parts)[order]


def require_finite(name: str, scores: NDArray[np.float32], pairs: Sequence[Pair]) -> None:
    """BackendError that shows the first pair whose score is not finite."""
    bad = np.flatnonzero(~np.isfinite(scores))
    if len(bad):
        query, passage = pairs[int(bad[0])]
        raise BackendError(
            f"{name}: score {scores[bad[0]]} for query {excerpt(query)}, passage "
            f"{excerpt(passage)}; try dtype float32"
        )


def collate(
    encoded: Sequence[Encoded], *, pad_id: int, side: str = "right"
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(input_ids, attention_mask, token_type_ids), each int64 (B, T)."""
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
    return torch.from_numpy(ids), torch.from_numpy(mask), torch.from_numpy(types)
