"""A small disk of its own that a test can fill, and empty again."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

PAGE = 4096
"""Bytes that a file on such a disk grows by."""


@contextlib.contextmanager
def small_disk(place: Path, size: int) -> Iterator[Path]:
    """A tmpfs of `size` bytes at `place`; the test is skipped where none can be mounted."""
    place.mkdir()
    mounted = (
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)],
            capture_output=True,
            text=True,
            check=False,
        )
        if shutil.which("mount")
        else None
    )
    if mounted is None or mounted.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {mounted.stderr if mounted else 'no mount'}")
    try:
        yield place
    finally:
        # lazily: an open file (a lock, a mapped file of weights) must not keep it
        subprocess.run(["umount", "-l", str(place)], check=True)


def enlarge(disk: Path, size: int) -> None:
    """Give a disk more room, as whoever removes other files does."""
    subprocess.run(["mount", "-o", f"remount,size={size}", str(disk)], check=True)


def fill(disk: Path, leave: int = 0) -> Path:
    """Fill a disk but for `leave` bytes, rounded to pages; the file to remove to empty it."""
    ballast = disk / "ballast"
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(shutil.disk_usage(disk).free - leave, 1))
    return ballast
