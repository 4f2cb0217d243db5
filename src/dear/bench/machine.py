"""What a number was measured on."""

from __future__ import annotations

import importlib.metadata
import platform
import statistics
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import torch

from dear.checkpoints.contract import DType
from dear.checkpoints.hardware import pick_device
from dear.checkpoints.processor import processor_name

SIDE, SMALL_SIDE, GPU_SIDE = 2048, 512, 8192
"""Of the square matrices whose product is timed."""
GPU_PRODUCTS = 4
"""Timed together on a GPU, so that starting the first and awaiting the last count for little."""
EMULATED = 5e9
"""A processor that does fewer operations a second has no instructions for the dtype."""

RATE_DTYPES: tuple[DType, ...] = ("float32", "bfloat16")

PACKAGES = (
    "dear-rerank",
    "torch",
    "transformers",
    "tokenizers",
    "openvino",
    "nncf",
    "onnxruntime",
    "sentence-transformers",
    "FlagEmbedding",
    "rerankers",
)


def matrix_rate(dtype: DType, device: str = "auto", *, rounds: int = 5) -> float:
    """Floating-point operations a second of a matrix product (median).

    Of random square matrices: 2048 x 2048 on a processor, 512 x 512 where it has to emulate the
    dtype, which takes minutes; 8192 x 8192 on a GPU, which smaller ones do not fill.
    """
    where = pick_device(device)
    on_gpu = where.type == "cuda"

    def once(side: int, products: int = 1) -> float:
        a = torch.randn(side, side, device=where).to(getattr(torch, dtype))
        if on_gpu:
            torch.cuda.synchronize(where)
        started = time.perf_counter()
        for _ in range(products):
            a @ a
        if on_gpu:
            torch.cuda.synchronize(where)
        return (time.perf_counter() - started) / products

    once(SMALL_SIDE)
    if on_gpu:
        side, products = GPU_SIDE, GPU_PRODUCTS
    else:
        products = 1
        side = SIDE if 2 * SMALL_SIDE**3 / once(SMALL_SIDE) > EMULATED else SMALL_SIDE
    once(side)
    return float(2 * side**3 / statistics.median(once(side, products) for _ in range(rounds)))


def describe(device: str = "auto", packages: Iterable[str] = PACKAGES) -> dict[str, Any]:
    """Processor or GPU, threads, and the versions that numbers depend on."""
    where = pick_device(device)
    found: dict[str, Any] = {
        "processor": processor_name(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(where) if where.type == "cuda" else where.type,
        "python": platform.python_version(),
    }
    for package in packages:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def with_rates(device: str = "auto") -> dict[str, Any]:
    """`describe`, and GFLOP/s of a matrix product in float32 and bfloat16."""
    return describe(device) | {
        f"{dtype}_gflop_s": round(matrix_rate(dtype, device) / 1e9) for dtype in RATE_DTYPES
    }
