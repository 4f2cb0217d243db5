"""Checkpoints on disk: which are complete, what they take, what is free, a save that failed.

The mark of a complete checkpoint is written last, with the size and checksum of every file: a kill
or a full disk leaves a checkpoint without it, and a file that was cut or changed afterwards no
longer agrees with it. The training's plan stands in it too, so that a checkpoint can be resumed
where `plan.json` is lost.

Sizes are those of weights and optimizer state alone, so that what is asked for is never more than
what is needed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import distributed as dist

from dear.artifacts import FULL, file_to_disk, folder_to_disk, is_full, read_json, write_json
from dear.errors import DataError

STEPS = "steps"
"""Where checkpoints are, below a training's folder."""

WHOLE = "WHOLE"
PLAN = "plan.json"
STEP = re.compile(r"checkpoint-(\d+)")
_GOING_ON = ("optimizer", "scheduler", "scaler", "rng_state")
_CHUNK = 1 << 24


def mark_complete(checkpoint: Path) -> None:
    """Everything in the folder is on disk: say so in it, last. DataError: the disk is full."""
    to_disk(checkpoint)
    paths = _files(checkpoint)
    with ThreadPoolExecutor() as pool:  # crc32 and reading release the GIL
        sums = list(pool.map(_checksum, paths.values()))
    files = {
        name: {"bytes": path.stat().st_size, "crc32": sum_}
        for (name, path), sum_ in zip(paths.items(), sums, strict=True)
    }
    plan_file = checkpoint.parent / PLAN
    plan = read_json(plan_file) if plan_file.is_file() else None
    write_json(checkpoint / WHOLE, {"files": files, "plan": plan})


def is_marked(checkpoint: Path) -> bool:
    return (checkpoint / WHOLE).exists()


def last_complete(steps: Path) -> Path | None:
    """The newest checkpoint that was written to its end."""
    found = whole(steps)
    return found[-1] if found else None


def whole(steps: Path) -> list[Path]:
    """By number."""
    found = [
        (int(match[1]), path)
        for path in steps.iterdir()
        if (match := STEP.fullmatch(path.name)) and is_marked(path)
    ]
    return [path for _, path in sorted(found)]


def incomplete(steps: Path) -> list[Path]:
    """Checkpoints that were not written to their end, or not removed to it."""
    return [p for p in steps.iterdir() if STEP.fullmatch(p.name) and not is_marked(p)]


def damage(checkpoint: Path, *, weights_alone: bool = False) -> str | None:
    """What is wrong with a marked checkpoint, in a few words; None where nothing is.

    Reads every byte of it; weights_alone: not those that only going on needs.
    """
    mark = _mark(checkpoint)
    if mark is None:
        return f"{WHOLE} is broken"
    for name, wanted in mark["files"].items():
        path = checkpoint / name
        if weights_alone and name.startswith(_GOING_ON):
            continue
        if not path.is_file():
            return f"{name} is missing"
        if (size := path.stat().st_size) != wanted["bytes"]:
            return f"{name} has {size:,} of {wanted['bytes']:,} bytes"
        try:
            found = _checksum(path)
        except OSError as error:
            return f"{name}: {error.strerror}"
        if found != wanted["crc32"]:
            return f"the checksum of {name} is another one"
    return None


def plan_in(checkpoint: Path) -> Mapping[str, Any] | None:
    """The plan of the training that wrote a checkpoint; None where the mark does not say it."""
    mark = _mark(checkpoint)
    return None if mark is None else mark["plan"]


def to_disk(folder: Path) -> None:
    """Wait until all files below a folder, and their names, are on the disk: power may fail."""
    for path in folder.rglob("*"):
        if path.is_file():
            file_to_disk(path)
        elif path.is_dir():
            folder_to_disk(path)
    folder_to_disk(folder)
    folder_to_disk(folder.parent)


def _mark(checkpoint: Path) -> dict[str, Any] | None:
    try:
        mark = read_json(checkpoint / WHOLE)
    except DataError:
        return None
    files, plan = mark.get("files"), mark.get("plan", 0)
    if not isinstance(files, dict) or not (plan is None or isinstance(plan, dict)):
        return None
    whole = all(isinstance(f, dict) and {"bytes", "crc32"} <= f.keys() for f in files.values())
    return mark if whole else None


def _files(checkpoint: Path) -> dict[str, Path]:
    """By name below the checkpoint; without the mark, and what a kill left of one."""
    return {
        str(path.relative_to(checkpoint)): path
        for path in sorted(checkpoint.rglob("*"))
        if path.is_file() and path.name != WHOLE and not path.name.startswith(f".{WHOLE}")
    }


def _checksum(path: Path) -> int:
    found = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            found = zlib.crc32(chunk, found)
    return found


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
        cut_short = incomplete(steps)
        if not cut_short or not is_of_writing(error):
            raise
        raise _not_saved(folder, cut_short, error, need.checkpoint) from error


def _not_saved(folder: Path, cut_short: list[Path], error: Exception, need: int) -> DataError:
    for path in cut_short:
        shutil.rmtree(path, ignore_errors=True)
    if last := last_complete(folder / STEPS):
        need = max(need, taken_bytes(last))  # with all its small files
    full = tells_full(error, free=free_bytes(folder), need=need)
    return unwritten(folder, cut_short[-1].name, error, need, full=full)


def unwritten(folder: Path, what: str, error: BaseException, need: int, *, full: bool) -> DataError:
    """One line: what could not be written, why, and from where training goes on."""
    last = last_complete(folder / STEPS)
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
