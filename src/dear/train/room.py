"""Room for checkpoints: what they take, what is free, and how a disk says that it is full.

Sizes are those of weights and optimizer state alone, so that what is asked for is never more than
what is needed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import distributed as dist

from dear.artifacts import FULL, is_full
from dear.errors import DataError
from dear.train.marks import STEPS, last_whole, torn

_logger = logging.getLogger(__name__)

_STATES = 2
"""Numbers that an Adam keeps for each trained one."""

_BLOCK = 512
"""Bytes of `st_blocks`, whatever the file system."""

_ZIP_WRITER = "inline_container"
"""In every error of torch's writer, which has no reasons."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes of one checkpoint to go on from, and of the finished weights."""

    checkpoint: int
    finished: int


@contextlib.contextmanager
def saving(folder: Path, model: Any, *, kept: int = 1, merges: bool = False) -> Iterator[None]:
    """Around the steps of a training: is there room, and what becomes of a failed save.

    kept: checkpoints that stay while the next one is written.
    merges: whether the adapter is folded into the base at the end.
    DataError: even one more checkpoint has no room, or one could not be written. What there is
    of that one is removed, the last whole checkpoint stays. Of several processes, the first one
    alone writes and is asked.
    """
    if dist.is_available() and dist.is_initialized() and dist.get_rank():
        yield
        return
    steps = folder / STEPS
    need = sizes(model, merges=merges)
    there, free = taken_bytes(steps), free_bytes(steps)
    # the steps are removed when the finished weights are on disk
    if free < max(need.checkpoint, need.checkpoint + need.finished - there):
        raise DataError.at(
            folder,
            None,
            f"no room for a checkpoint: it takes {gigabytes(need.checkpoint)}, {gigabytes(free)} "
            "are free; make room, or choose a folder on another disk",
        )
    most = max((kept + 1) * need.checkpoint, kept * need.checkpoint + need.finished)
    if free + there < most:
        _logger.warning(
            "%s: up to %d checkpoints of %s stand there at once, %s are free; the disk may get "
            "full; a training that stops goes on from its last whole checkpoint",
            *(folder, kept + 1, gigabytes(need.checkpoint), gigabytes(free)),
        )
    try:
        yield
    except Exception as error:
        cut_short = torn(steps)
        if not cut_short or not is_of_writing(error):
            raise
        raise _not_saved(folder, cut_short, error, need.checkpoint) from error


def _not_saved(folder: Path, cut_short: list[Path], error: Exception, need: int) -> DataError:
    for path in cut_short:
        shutil.rmtree(path, ignore_errors=True)
    if last := last_whole(folder / STEPS):
        need = max(need, taken_bytes(last))  # with all its small files
    full = tells_full(error, free=free_bytes(folder), need=need)
    return unwritten(folder, cut_short[-1].name, error, need, full=full)


def unwritten(folder: Path, what: str, error: BaseException, need: int, *, full: bool) -> DataError:
    """One line: what could not be written, why, and from where training goes on."""
    last = last_whole(folder / STEPS)
    goes_on = f"goes on from {last.name}" if last else "begins anew"
    again = f"the same command {goes_on}"
    if full:
        free = gigabytes(free_bytes(folder))
        return DataError.at(
            folder,
            None,
            f"no room for {what}: it takes {gigabytes(need)}, {free} are free; make "
            f"room, and {again}",
        )
    return DataError.at(folder, None, f"{what} could not be written: {reason(error)}; {again}")


def sizes(model: Any, *, merges: bool = False) -> Sizes:
    """From a model that is ready for training.

    merges: whether the adapter is folded into the base at the end.
    """
    every = trained = 0
    for parameter in model.parameters():
        # ds_numel: of a parameter that DeepSpeed has shared out
        size = getattr(parameter, "ds_numel", parameter.numel()) * parameter.element_size()
        every += size
        trained += size if parameter.requires_grad else 0
    saved = trained if hasattr(model, "peft_config") else every
    return Sizes(saved + _STATES * trained, every if merges else saved)


def free_bytes(folder: Path) -> int:
    """For this user, on the disk that a folder is or will be on."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(there).free


def taken_bytes(folder: Path) -> int:
    """What all files below a folder take of the disk."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # another process may be removing them
            total += path.stat().st_blocks * _BLOCK if path.is_file() else 0
    return total


def is_of_writing(error: BaseException) -> bool:
    """Whether this is what the libraries raise where a file cannot be written."""
    if isinstance(error, ConnectionError):
        return False
    return isinstance(error, OSError | SafetensorError | DataError) or _ZIP_WRITER in str(error)


def tells_full(error: BaseException, *, free: int, need: int) -> bool:
    """Whether a disk (or a quota) was full. torch's writer does not say: then the sizes do."""
    if any(is_full(e) or _in_words(e) for e in _chain(error)):
        return True
    return isinstance(error, RuntimeError | SafetensorError) and free < need


def reason(error: BaseException) -> str:
    """One line of an error, the reason of the system where it knows one."""
    for found in _chain(error):
        if isinstance(found, OSError) and found.strerror:
            return found.strerror
    if _ZIP_WRITER in str(error):
        return "the disk took only a part; a quota, or a limit on the size of files"
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def gigabytes(count: int) -> str:
    """`1.6 GB`, `12 MB`: as `df -H` counts."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            value = count / size
            return f"{value:.1f} {unit}" if value < 10 else f"{value:,.0f} {unit}"
    return f"{count} bytes"


def _in_words(error: BaseException) -> bool:
    # Rust's libraries have the system's words and number, and no errno
    text = str(error)
    return any(os.strerror(n) in text or f"os error {n})" in text for n in FULL)


def _chain(error: BaseException) -> Iterator[BaseException]:
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__ or found.__context__
