"""The mark of a whole checkpoint: written last, with the size and checksum of every file.

A kill or a full disk leaves a checkpoint without it; a file that was cut or changed afterwards
no longer agrees with it. The training's plan stands in it too, so that a checkpoint can be gone
on from where `plan.json` is lost.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from dear.artifacts import file_to_disk, folder_to_disk, read_json, write_json
from dear.errors import DataError

STEPS = "steps"
"""Where checkpoints are, below a training's folder."""

WHOLE = "WHOLE"
PLAN = "plan.json"
STEP = re.compile(r"checkpoint-(\d+)")
_GOING_ON = ("optimizer", "scheduler", "scaler", "rng_state")
_CHUNK = 1 << 24


def mark_whole(checkpoint: Path) -> None:
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


def last_whole(steps: Path) -> Path | None:
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


def torn(steps: Path) -> list[Path]:
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
