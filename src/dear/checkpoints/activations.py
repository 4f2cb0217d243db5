"""What turns a logit into the score that CrossEncoder.predict gives."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn

from dear.checkpoints.contract import ScoringContract
from dear.errors import ConfigError

SCALES = {"biencoder": "Identity", "splade": "Identity"}
"""Kind of contract → activation, for readings whose scores are no logits of one output."""


def activation_of(contract: ScoringContract | dict[str, Any]) -> nn.Module:
    """The module that a model's contract names; Sigmoid where it names none, as CrossEncoder's."""
    if isinstance(contract, ScoringContract):
        return make_activation(contract.activation or "Sigmoid")
    likelihood = contract.get("read") == "likelihood"
    default = "Identity" if likelihood else SCALES.get(str(contract.get("kind")), "Sigmoid")
    return make_activation(str(contract.get("activation") or default))


def make_activation(name: str) -> nn.Module:
    """A module of torch.nn by its class, made without arguments. ConfigError for any other."""
    found = getattr(nn, name, None)
    if not (inspect.isclass(found) and issubclass(found, nn.Module)):
        raise ConfigError(f"no activation {name!r} in torch.nn")
    try:
        return found()
    except TypeError:
        raise ConfigError(f"torch.nn.{name} is no activation: it takes arguments") from None
