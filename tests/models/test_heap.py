"""Freed memory goes back to the system."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from dear.models.hardware import trim_heap


def resident() -> int:
    """Bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


GLIBC = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="the heap is another library's"
)


@GLIBC
def test_holes_in_the_heap_are_given_back() -> None:
    held = [bytes(4000) for _ in range(30_000)]
    pin = bytes(4000)  # above them all, so that the heap cannot shrink from its end
    full = resident()
    held.clear()
    trim_heap()
    assert full - resident() > 60 * 2**20
    assert len(pin) == 4000


KEPT = """
import torch
from dear.models.hardware import keep_heap
from pathlib import Path

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

keep_heap()
tensor = torch.ones(60, 2**20)
full = resident()
del tensor
print((full - resident()) // 2**20)
"""


@GLIBC
@pytest.mark.parametrize(
    ("surroundings", "back"),
    [({}, 0), ({"MALLOC_ARENA_MAX": "2"}, 240), ({"GLIBC_TUNABLES": "glibc.malloc.check=0"}, 240)],
    ids=["by itself", "asked otherwise", "asked otherwise, newer"],
)
def test_a_large_tensor_stays_for_the_next_one(surroundings: dict[str, str], back: int) -> None:
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))}
    said = subprocess.run(
        [sys.executable, "-c", KEPT],
        env=plain | surroundings,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert abs(int(said) - back) < 30
