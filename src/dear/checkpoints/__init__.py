"""What lies on disk: contracts, weights, tokenizers, adapters, and the registry of named models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dear.lazy import submodules

if TYPE_CHECKING:
    from dear.checkpoints import activations as activations

__getattr__ = submodules(__name__, "activations")
