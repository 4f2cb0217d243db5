"""Several processes at one training: who is there, what all agree on, who does which part.

The environment says it, as torchrun, `accelerate launch` and `dear train --gpus` set it (RANK,
WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT). Without it there is one process, and everything
here is nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from dear.checkpoints.hardware import pick_device
from dear.digests import Inputs
from dear.errors import BackendError, ConfigError, DataError, DearError
from dear.train.checkpoints import claimed
from dear.train.launching import LAUNCHED

NOT_FINITE = (
    "lower train.learning_rate, or set train.autocast=false, and train into another folder; the "
    "last whole checkpoint in steps/ is kept, and can be its model.base"
)
"""What to do about a loss or a gradient that is none."""

WAIT = timedelta(hours=2)
"""How long a process waits for another, which may be writing a large model."""

_LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "NCCL", "gloo")
_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of linux/prctl.h

T = TypeVar("T")


def world_size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """This process's number, from 0; the first one writes the files."""
    return dist.get_rank() if dist.is_initialized() else 0


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """The group of processes that the environment describes, for as long as the block takes.

    BackendError: another process has ended. A group that is there already is used as it is.
    """
    if dist.is_initialized():
        yield
        return
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        with _alone():
            yield
        return
    _end_with_launcher()
    device = pick_device("auto")
    if device.type == "cuda":
        torch.cuda.set_device(_local_gpu())
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    try:
        dist.init_process_group(backend, timeout=WAIT)
        yield
    except (RuntimeError, dist.DistBackendError) as error:
        if not any(word in str(error) for word in _LOST):
            raise
        if LAUNCHED in os.environ:
            time.sleep(30)  # the launcher knows which process it was, says so, and ends this one
        raise BackendError(
            "another process of this training has ended; the same command goes on from the last "
            "whole checkpoint"
        ) from error
    dist.destroy_process_group()


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """A group of one is none: accelerate would wrap the model for it."""
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
    there = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(there)


def local_device() -> torch.device:
    """Where this process computes: the GPU of its number on this machine, or the CPU."""
    device = pick_device("auto")
    several = device.type == "cuda" and world_size() > 1
    return torch.device("cuda", _local_gpu()) if several else device


def _local_gpu() -> int:
    mine, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if mine >= there:
        raise ConfigError(f"a process for GPU {mine}, and PyTorch sees {there}; start fewer")
    return mine


def _end_with_launcher() -> None:
    """A launcher that is killed takes its processes with it (on Linux)."""
    if LAUNCHED in os.environ:
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGTERM)


@contextlib.contextmanager
def claimed_together(folder: Path, inputs: Inputs) -> Iterator[Path | None]:
    """As `claimed`, which the first process alone does; all raise what it raises.

    DataError: the processes have read different things.
    """
    if world_size() == 1:
        with claimed(folder, inputs) as resume:
            yield resume
        return
    found: list[Any] = [None] * world_size()
    dist.all_gather_object(found, inputs.to_dict())
    first = Inputs.from_dict(found[0])
    for other in map(Inputs.from_dict, found[1:]):
        if different := first.changes(other):
            raise DataError(
                f"the {world_size()} processes have read different {', '.join(different.by_kind)}; "
                "give every machine the same data and the same base"
            )
    with contextlib.ExitStack() as stack:
        said: list[Any] = [None, None]
        if rank() == 0:
            try:
                said = [stack.enter_context(claimed(folder, inputs)), None]
            except DearError as error:
                said = [None, error]
        dist.broadcast_object_list(said)
        if said[1] is not None:
            raise said[1]
        yield said[0]


def wait_for_all() -> None:
    if world_size() > 1:
        dist.barrier()


def summed(value: torch.Tensor) -> torch.Tensor:
    """The sum over all processes."""
    if world_size() > 1:
        value = value.detach().clone()
        dist.all_reduce(value)
    return value


def of_the_first(value: float, device: torch.device) -> float:
    """What the first process has computed, for all: rounding may differ between machines."""
    mine = value if rank() == 0 else 0.0
    return float(summed(torch.tensor(mine, dtype=torch.float64, device=device)).item())


def scored_together(
    score: Callable[[list[T]], Sequence[float]],
    parts: Sequence[Sequence[T]],
    device: torch.device,
    *,
    by_all: bool,
) -> list[list[float]]:
    """The scores of every part, the same in all processes.

    by_all: every process scores everything, for a model that lies over all of them; otherwise
    each one scores its share of the parts.
    """
    here, several = rank(), world_size()
    mine = range(len(parts)) if by_all else range(here, len(parts), several)
    scores = iter(score([item for i in mine for item in parts[i]]))
    found: list[list[float]] = [[0.0] * len(part) for part in parts]
    for i in mine:
        found[i] = [float(next(scores)) for _ in parts[i]]
    if several == 1:
        return found
    flat = torch.tensor([s for part in found for s in part], dtype=torch.float64, device=device)
    if by_all and here:
        flat.zero_()
    every = iter(summed(flat).tolist())
    return [[next(every) for _ in part] for part in parts]
