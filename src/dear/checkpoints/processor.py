"""This machine's processor: its name and kind, threads to compute with, the heap."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Literal, TypeAlias

ProcessorKind: TypeAlias = Literal["amx", "avx512-vnni", "avx512", "avx2-vnni", "avx2", "other"]
"""By its fastest instructions for matrices of 8 bits. "other": x86 of before 2013, ARM and the
rest."""

_FEATURES: dict[ProcessorKind, frozenset[str]] = {
    "amx": frozenset({"amx_tile", "amx_int8"}),
    "avx512-vnni": frozenset({"avx512f", "avx512_vnni"}),
    "avx512": frozenset({"avx512f"}),
    "avx2-vnni": frozenset({"avx2", "avx_vnni"}),
    "avx2": frozenset({"avx2"}),
}
"""Kind → the flags that Linux gives such a processor; the first that fits counts."""

_BFLOAT16 = frozenset({"amx_bf16", "avx512_bf16"})
_FORBIDDEN = {"AVX2": frozenset({"amx_tile", "avx512f", "avx_vnni"}) | _BFLOAT16}
_FORBIDDEN["AVX512_CORE"] = frozenset({"amx_tile", "avx512_vnni"}) | _BFLOAT16
_FORBIDDEN["AVX512_CORE_VNNI"] = frozenset({"amx_tile"}) | _BFLOAT16
_FORBIDDEN["AVX512_CORE_BF16"] = frozenset({"amx_tile", "amx_bf16"})
"""ONEDNN_MAX_CPU_ISA → what oneDNN, which PyTorch and OpenVINO multiply with, leaves out then."""


def _allowed() -> frozenset[str]:
    """Those that may be used."""
    return _flags() - _FORBIDDEN.get(os.environ.get("ONEDNN_MAX_CPU_ISA", ""), frozenset())


def multiplies_bfloat16() -> bool:
    """Whether there are instructions for it."""
    return bool(_BFLOAT16 & _allowed())


@cache
def _flags() -> frozenset[str]:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith(("flags", "Features")):
                return frozenset(line.partition(":")[2].split())
    # Windows and macOS do not say without tools: every x86 that runs them has AVX2
    return frozenset({"avx2"} if platform.machine().lower() in ("amd64", "x86_64") else ())


def processor_kind() -> ProcessorKind:
    """What `--runtime auto` chooses by."""
    flags = _allowed()
    return next((kind for kind, needed in _FEATURES.items() if needed <= flags), "other")


def processor_name() -> str:
    """The processor's model, as the system names it."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def threads() -> int:
    """Threads to compute with: PyTorch's where it is loaded, else OMP_NUM_THREADS, else the cores
    that this process may use."""
    torch = sys.modules.get("torch")
    if torch is not None:
        return int(torch.get_num_threads())
    with contextlib.suppress(ValueError):
        return max(1, int(os.environ.get("OMP_NUM_THREADS", "")))
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL("libc.so.6").malloc_trim
    except (OSError, AttributeError):  # another C library
        return None


def trim_heap() -> None:
    """Give freed memory back to the system, where the C library is glibc.

    Batches of ever other shapes leave holes in its heap: without this a stream of a million pairs
    grows by 0.4 KB a pair, all of it free. Takes milliseconds.
    """
    trim = _malloc_trim()
    if trim is not None:
        trim(0)
