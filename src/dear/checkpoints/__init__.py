"""What lies on disk: contracts, weights, tokenizers, adapters, and the registry of named models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dear.lazy import submodules

if TYPE_CHECKING:
    from dear.checkpoints import activations as activations
    from dear.checkpoints import hardware as hardware
    from dear.checkpoints import tokenizer as tokenizer

__getattr__ = submodules(__name__, "activations", "hardware", "tokenizer")
