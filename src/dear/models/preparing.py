"""What a training does to a model before it starts: dropout, and a new adapter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from dear.errors import ConfigError, MissingExtra
from dear.recipes import LoraRecipe

DROPOUTS = ("hidden_dropout_prob", "attention_probs_dropout_prob", "attention_dropout")
"""Keys of a configuration."""


def set_dropout(model: Any, rate: float) -> None:
    """One rate for every dropout of a model, in its modules and in its configuration."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = rate
        elif isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = rate
    for key in DROPOUTS:
        if hasattr(model.config, key):
            setattr(model.config, key, rate)


def add_lora(model: Any, recipe: LoraRecipe, task: str, trained: Sequence[str] = ()) -> Any:
    """The model with a new adapter, from torch's current seed.

    task: as peft names it.  trained: modules that are trained whole and saved with the adapter.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise MissingExtra.of("peft", "train") from None
    names = {name.rsplit(".", 1)[-1] for name, _ in model.named_modules()}
    unknown = sorted(set(recipe.targets) - names)
    if unknown:
        raise ConfigError(f"lora.targets: the model has no {', '.join(unknown)}")
    last = None
    if recipe.last_layers:
        layers = range(model.config.get_text_config().num_hidden_layers)
        if recipe.last_layers > len(layers):
            raise ConfigError(
                f"lora.last_layers: {recipe.last_layers}; the model has {len(layers)} layers"
            )
        last = list(layers[-recipe.last_layers :])
    config = LoraConfig(
        task_type=task,
        r=recipe.rank,
        lora_alpha=recipe.alpha,  # type: ignore[arg-type]  # a factor; fractions are fine
        lora_dropout=recipe.dropout,
        target_modules=list(recipe.targets),
        modules_to_save=list(trained) or None,
        layers_to_transform=last,
    )
    return get_peft_model(model, config)
