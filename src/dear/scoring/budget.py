"""The token budget that a machine and a model like best: probed once, then remembered.

Kept in the cache's budget.json, for one device, processor, number of threads, torch version and
shape of model.
"""

from __future__ import annotations

import json
import logging
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from dear.artifacts import cache_folder, read_json, write_json
from dear.checkpoints.contract import ScoringContract
from dear.errors import DataError
from dear.scoring.batching import Device
from dear.scoring.encoding import Encoded
from dear.scoring.engines import Engine

logger = logging.getLogger(__name__)


class Budgeted(Protocol):
    """runs_on: device, processor, threads, and the version of what computes."""

    @property
    def runs_on(self) -> Sequence[str | int]: ...
    @property
    def architecture(self) -> str: ...
    @property
    def contract(self) -> ScoringContract: ...


CPU_CANDIDATES = (512, 1024, 2048, 4096)
GPU_CANDIDATES = (8192, 16384, 32768, 65536, 131072)

ROUNDS = 3

AS_GOOD = 1.03
"""Of budgets within 3 % of the fastest, the smallest is taken: it needs the least memory."""


def probe_batch_tokens(
    make: Callable[[int], Engine],
    vocabulary: int,
    *,
    device: Device,
    candidates: Sequence[int] | None = None,
    tokens: int = 128,
    longest: int = 512,
    limit_s: float = 20.0,
) -> int | None:
    """The budget at which `make(budget)` scores fastest; None where the time is too short to tell.

    vocabulary: token ids lie below it.  tokens: length of the synthetic sequences.
    longest: on a GPU, a budget must also hold a batch of sequences of this length.
    limit_s: candidates whose share of the time would not fit are left out, the largest first.

    All candidates compute the same sequences, in turns; the median of 3 turns counts.
    """
    if candidates is None:
        candidates = CPU_CANDIDATES if device.type == "cpu" else GPU_CANDIDATES
    budgets = sorted({max(1, c) for c in candidates})
    if device.type == "cuda":
        budgets = [b for b in budgets if _holds(make(b), _sequences(b, longest, vocabulary))]
    if len(budgets) < 2:
        return None
    started = time.perf_counter()
    budgets = _affordable(budgets, _rate(make(budgets[0]), budgets[0], tokens, vocabulary), limit_s)
    if len(budgets) < 2:
        return None
    work = _sequences(budgets[-1], tokens, vocabulary)
    engines = {b: make(b) for b in budgets}
    seconds: dict[int, list[float]] = {b: [] for b in budgets}
    for turn in range(ROUNDS):
        if turn and time.perf_counter() - started > limit_s:
            break
        for b in budgets:
            seconds[b].append(_timed(engines[b], work))
    medians = {b: statistics.median(times) for b, times in seconds.items()}
    logger.info("seconds by batch tokens: %s", medians)
    best = min(medians.values())
    return min(b for b, median in medians.items() if median <= AS_GOOD * best)


def load_batch_tokens(model: Budgeted) -> int | None:
    """The remembered budget of this machine and model; None where there is none."""
    value = _read().get(_key(model))
    # a bool is an int to Python
    return value if type(value) is int and value >= 1 else None


def remember_batch_tokens(model: Budgeted, batch_tokens: int) -> None:
    """Keep a budget for jobs to come; a cache that cannot be written is no error."""
    path = _cache_file()
    try:
        write_json(path, _read() | {_key(model): batch_tokens})
    except DataError as error:
        logger.info("the token budget is not remembered: %s", error)


def _sequences(total: int, tokens: int, vocabulary: int) -> list[Encoded]:
    """About `total` tokens, in sequences of `tokens`."""
    # the middle of a vocabulary: special tokens stand at its ends
    low, high = vocabulary // 4, max(vocabulary // 2, vocabulary // 4 + 1)
    tokens = min(tokens, total)
    rows = np.random.default_rng(0).integers(low, high, (total // tokens, tokens))
    return [Encoded(row, [0] * tokens) for row in rows.tolist()]


def _timed(engine: Engine, work: Sequence[Encoded]) -> float:
    started = time.perf_counter()
    engine.run(work)
    return time.perf_counter() - started


def _rate(engine: Engine, budget: int, tokens: int, vocabulary: int) -> float:
    """Tokens a second, roughly; the first run, which warms up, does not count."""
    work = _sequences(budget, tokens, vocabulary)
    _timed(engine, work)
    return budget / max(_timed(engine, work), 1e-9)


def _affordable(budgets: list[int], rate: float, limit_s: float) -> list[int]:
    while budgets and ROUNDS * len(budgets) * budgets[-1] > rate * limit_s:
        budgets = budgets[:-1]
    return budgets


def _holds(engine: Engine, batch: Sequence[Encoded]) -> bool:
    """True if the device's memory does."""
    import torch

    try:
        engine.run(batch)
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return False
    return True


def _key(model: Budgeted) -> str:
    """What the best budget depends on, as one line of JSON."""
    return json.dumps([*model.runs_on, model.architecture, model.contract.dtype])


def _cache_file() -> Path:
    return cache_folder("budget.json")


def _read() -> dict[str, object]:
    """{} for a file that is missing or damaged: it is written anew."""
    try:
        return read_json(_cache_file())
    except DataError:
        return {}
