"""A model's layers: which of them to keep, and what their number and positions allow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import nn

from dear.errors import ConfigError
from dear.models.contract import ScoringContract
from dear.models.heads import first_position


def count_parameters(model: Any) -> int:
    # a 4-bit weight holds two in a byte, and remembers its shape
    states = ((p, getattr(p, "quant_state", None)) for p in model.parameters())
    return sum(p.numel() if state is None else math.prod(state.shape) for p, state in states)


def check_length(config: Any, contract: ScoringContract, name: str) -> None:
    """Learned positions end somewhere; a contract must fit in them."""
    text = config.get_text_config()
    positions = getattr(text, "max_position_embeddings", None)
    if positions is None or positions < 1 or hasattr(text, "rope_parameters"):
        return
    positions -= first_position(text)
    if contract.longest > positions:
        raise ConfigError(
            f"{name}: the contract allows {contract.longest} tokens, the model has "
            f"{positions} positions; lower the contract's limits"
        )


def pick_layers(model: Any, layers: Sequence[int]) -> None:
    """Keep only these layers (0 is the first), in this order: the start of a smaller student.

    ConfigError for a layer that is not there or named twice, and for one that has other weights
    than its new place needs (ModernBERT's first has no norm).
    """
    config = model.config.get_text_config()
    count = config.num_hidden_layers
    if not layers or any(not 0 <= i < count for i in layers):
        raise ConfigError(f"layers {list(layers)}: the model has layers 0 to {count - 1}")
    if len(set(layers)) != len(layers):
        raise ConfigError(f"layers {list(layers)}: a layer is named twice")
    parent, name = find_layers(model, count)
    old = getattr(parent, name)
    for place, i in enumerate(layers):
        if old[i].state_dict().keys() != old[place].state_dict().keys():
            raise ConfigError(f"layer {i} cannot stand in place {place}: it has other weights")
    setattr(parent, name, nn.ModuleList([old[i] for i in layers]))
    for place, i in enumerate(layers):
        for module in old[i].modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = place
    config.num_hidden_layers = len(layers)
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[i] for i in layers]


def has_weights(module: nn.Module) -> bool:
    """True for a module that multiplies its input with weights, as GPT-2's own kind does."""
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def find_layers(model: nn.Module, count: int) -> tuple[nn.Module, str]:
    """(the module that holds the list of `count` layers, the list's name in it)."""
    for parent in model.modules():
        for name, child in parent.named_children():
            if isinstance(child, nn.ModuleList) and len(child) == count:
                return parent, name
    raise ConfigError(f"{type(model).__name__}: found no list of {count} layers to pick from")
