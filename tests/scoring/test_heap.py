"""Freed memory goes back to the system."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from dear.checkpoints.processor import trim_heap


def resident() -> int:
    """Bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the heap is another library's")
def test_holes_in_the_heap_are_given_back() -> None:
    held = [bytes(4000) for _ in range(30_000)]
    pin = bytes(4000)  # above them all, so that the heap cannot shrink from its end
    full = resident()
    held.clear()
    trim_heap()
    assert full - resident() > 60 * 2**20
    assert len(pin) == 4000
