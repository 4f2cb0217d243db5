"""Windows of passages → orders: strategies, decoding, and causal models that rerank lists."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dear.lazy import submodules

if TYPE_CHECKING:
    from dear.listwise import backbone as backbone

__getattr__ = submodules(__name__, "backbone")
