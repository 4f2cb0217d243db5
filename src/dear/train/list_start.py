"""What a listwise training starts from: the causal model that a pointwise adapter sits on."""

from __future__ import annotations

from typing import Any

from dear.errors import ConfigError
from dear.models.family import Source, locate
from dear.models.files import model_json
from dear.models.listwise_contract import ListwiseContract
from dear.models.loading import load_reader, mend_padding, pick_layers
from dear.models.preparing import add_lora, set_dropout
from dear.recipes import ModelRecipe
from dear.train.processes import local_device
from dear.train.start import QUANTISED, ready_for_adapter, require_adapter


def start_list_model(recipe: ModelRecipe, *, on_cpu: bool = False) -> tuple[Any, Any]:
    """(causal model, tokenizer): the base's weights with its language head, cut and wrapped.

    A pointwise checkpoint of full weights is as good a base where its embeddings are tied; of a
    pointwise adapter's folder, the adapter's own base is taken. A new adapter comes from torch's
    current seed. DataError: the checkpoint has no language head.
    on_cpu: leave the weights there, for a model that no GPU holds alone.
    """
    from transformers import AutoModelForCausalLM

    if recipe.layers and recipe.lora is not None and not recipe.lora.merge:
        raise ConfigError(
            "model.layers with an adapter that is not merged: the base would be loaded with all "
            "its layers; set model.lora.merge=true"
        )
    require_adapter(recipe)
    reader = load_reader(
        _backbone(locate(recipe.base)),
        AutoModelForCausalLM,
        dtype=QUANTISED.get(recipe.quantise, recipe.dtype),
        device="cpu" if on_cpu else str(local_device()),
    )
    model, tokenizer = reader.model, reader.tokenizer
    # eager attention, faster for pairs, keeps some (tokens, tokens) tables of every head
    model.set_attn_implementation("sdpa")
    mend_padding(model, tokenizer)
    if recipe.layers:
        pick_layers(model, recipe.layers)
    if recipe.dropout is not None:
        set_dropout(model, recipe.dropout)
    if recipe.lora is not None:
        if recipe.quantise in QUANTISED:
            model = ready_for_adapter(model)
        model = add_lora(model, recipe.lora, "CAUSAL_LM")
    return model, tokenizer


def require_positions(model: Any, contract: ListwiseContract, name: str) -> None:
    """ConfigError: the contract allows more tokens than the model has positions."""
    text = model.config.get_text_config()
    positions = getattr(text, "max_position_embeddings", None)
    if positions is not None and contract.max_tokens > positions:
        raise ConfigError(
            f"{name}: listwise.max_tokens is {contract.max_tokens}, the model has {positions} "
            "positions"
        )


def _backbone(source: Source) -> str:
    adapter = {} if source.gguf_file else model_json(source, "adapter_config.json")
    return str(adapter.get("base_model_name_or_path") or source.name)
