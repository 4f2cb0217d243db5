"""A model's layers: which of them to keep, and what their number and positions allow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from dear.checkpoints.contract import ScoringContract
from dear.checkpoints.heads import first_position
from dear.checkpoints.registry import Source
from dear.checkpoints.sentence_transformers import ModuleEntry, transformer_settings
from dear.errors import ConfigError
from dear.notices import warn


def count_parameters(model: Any) -> int:
    # a 4-bit weight holds two in a byte, and remembers its shape
    states = ((p, getattr(p, "quant_state", None)) for p in model.parameters())
    return sum(p.numel() if state is None else math.prod(state.shape) for p, state in states)


def positions_of(config: Any) -> int | None:
    """Tokens that learned positions are there for; None where they do not end."""
    text = config.get_text_config()
    positions = getattr(text, "max_position_embeddings", None)
    if positions is None or positions < 1 or hasattr(text, "rope_parameters"):
        return None
    return int(positions) - first_position(text)


NO_LIMIT = 10**6
"""Tokenizers without a limit say that it is above this."""

DEFAULT_LENGTH = 512
"""Tokens of a pair where neither files nor positions say how many."""


def own_length(
    source: Source,
    tokenizer: Any,
    config: Any,
    default: int = DEFAULT_LENGTH,
    *,
    entry: ModuleEntry | None = None,
) -> int:
    """Tokens of the longest text, as sentence-transformers reads it: max_seq_length where it is
    stored, else the lower of the tokenizer's limit and the model's positions, else `default`.

    entry: of the transformer among the modules.
    """
    stored = transformer_settings(source, entry).get("max_seq_length")
    limit = int(stored or tokenizer.model_max_length)
    positions = positions_of(config)
    if positions is None:
        positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    if isinstance(positions, int) and positions > 0:
        limit = min(limit, positions)
    return limit if limit < NO_LIMIT else default


def check_length(config: Any, contract: ScoringContract, name: str) -> None:
    """Learned positions end somewhere; a contract must fit in them."""
    positions = positions_of(config)
    if positions is not None and contract.longest > positions:
        raise ConfigError(
            f"{name}: the contract allows {contract.longest} tokens, the model has "
            f"{positions} positions; lower the contract's limits"
        )


def fit_length(config: Any, contract: ScoringContract, name: str) -> ScoringContract:
    """The contract, its limits lowered to the model's positions, which is told.

    ConfigError where they would leave no room for a passage.
    """
    positions = positions_of(config)
    if positions is None or contract.longest <= positions:
        return contract
    if contract.max_tokens is not None:
        fitted = {"max_tokens": positions}
    else:
        left = (contract.max_passage_tokens or 0) - (contract.longest - positions)
        if left < 1:
            check_length(config, contract, name)
        fitted = {"max_passage_tokens": left}
    was = ", ".join(f"{getattr(contract, key)} to {value}" for key, value in fitted.items())
    warn(f"{name}: the model has {positions} positions: {next(iter(fitted))} is lowered from {was}")
    return replace(contract, **fitted)  # type: ignore[arg-type]


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
