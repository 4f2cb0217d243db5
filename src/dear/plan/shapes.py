"""The shape of a model without its weights: on the meta device, where a tensor has no memory.

The published bases are known by their public dimensions, so that a 13B teacher can be planned
with neither the hub nor a licence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import transformers as hf
from transformers import LlamaConfig

from dear.checkpoints.files import model_json, quiet, read_config
from dear.checkpoints.heads import HEAD_PARTS, HEADS
from dear.checkpoints.registry import FAMILY, Source, is_present, locate
from dear.checkpoints.screening import within
from dear.errors import BackendError, ConfigError, nearest
from dear.recipes import Recipe
from dear.scoring.loading import pick_layers
from dear.train.start import add_lora, set_dropout

_LLAMA2 = {
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def _llama3(factor: float) -> dict[str, Any]:
    return {
        "vocab_size": 128256,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": factor,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
        "bos_token_id": 128000,
        "eos_token_id": 128001,
    }


def _sizes(hidden: int, intermediate: int, layers: int, heads: int) -> dict[str, Any]:
    return {
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
    }


PUBLISHED: dict[str, dict[str, Any]] = {
    "meta-llama/Llama-2-7b-hf": _LLAMA2 | _sizes(4096, 11008, 32, 32),
    "meta-llama/Llama-2-13b-hf": _LLAMA2 | _sizes(5120, 13824, 40, 40),
    "meta-llama/Llama-3.1-8B": _llama3(8.0) | _sizes(4096, 14336, 32, 32),
    "meta-llama/Llama-3.1-8B-Instruct": _llama3(8.0)
    | _sizes(4096, 14336, 32, 32)
    | {"eos_token_id": [128001, 128008, 128009]},
    "meta-llama/Llama-3.2-3B": _llama3(32.0)
    | _sizes(3072, 8192, 28, 24)
    | {"head_dim": 128, "tie_word_embeddings": True},
    "meta-llama/Llama-3.2-1B": _llama3(32.0)
    | _sizes(2048, 8192, 16, 32)
    | {"head_dim": 64, "tie_word_embeddings": True},
}
"""Arguments of LlamaConfig for the published bases, as their model cards have them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What a model's memory and time follow from.

    parameters: tied weights once.  trainable: of these.  embedding: of the input embedding, which
        is looked up.  working: those that multiply; a tied language head does.
    language_head: of these, the language head's; 0 without one.
    linear: weights of linear layers that 8 and 4 bits would replace (no head, no adapter).
    largest_linear: of these, the largest single one.
    """

    parameters: int
    trainable: int
    embedding: int
    working: int
    language_head: int
    linear: int
    largest_linear: int
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int

    @classmethod
    def of(cls, model: Any) -> Shape:
        """Of any transformers model, in peft's wrapper or bare, on any device."""
        config = model.config.get_text_config()
        embedding = model.get_input_embeddings()
        weights = list(model.parameters())
        total = sum(p.numel() for p in weights)
        looked_up = sum(p.numel() for p in embedding.parameters())
        head = getattr(model, "get_output_embeddings", lambda: None)()
        tied = head is not None and head.weight is embedding.weight
        linear = [
            module.weight.numel()
            for name, module in model.named_modules()
            if isinstance(module, torch.nn.Linear) and not _stays_whole(name)
        ]
        heads = config.num_attention_heads
        return cls(
            parameters=total,
            trainable=sum(p.numel() for p in weights if p.requires_grad),
            embedding=looked_up,
            working=total - (0 if tied else looked_up),
            language_head=0 if head is None else head.weight.numel(),
            linear=sum(linear),
            largest_linear=max(linear, default=0),
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            intermediate=getattr(config, "intermediate_size", None) or 4 * config.hidden_size,
            heads=heads,
            kv_heads=getattr(config, "num_key_value_heads", None) or heads,
            head_size=getattr(config, "head_dim", None) or config.hidden_size // heads,
            vocabulary=config.vocab_size,
        )


def base_config(name: str, *, above: tuple[str, ...] = ()) -> Any:
    """The transformers configuration of a base, without its weights.

    name: a published base, a name of `dear models`, a folder, a GGUF file or a hub id.
    above: folders of the adapters that sit on it.
    ConfigError for what is nowhere, DataError for a damaged file.
    """
    if name in PUBLISHED:
        return LlamaConfig(**PUBLISHED[name])
    known = FAMILY.get(name)
    if known is not None and known.base and not is_present(known):
        return base_config(known.base)
    source = locate(name)
    adapter = {} if source.gguf_file else model_json(source, "adapter_config.json")
    if adapter.get("base_model_name_or_path"):
        if source.path in above:
            raise ConfigError(f"{above[0]}: the adapter sits on itself, by way of {source.name}")
        below = str(adapter["base_model_name_or_path"])
        return base_config(below, above=(*above, source.path))
    return _read_config(source, name)


def meta_model(recipe: Recipe, *, attention: str = "sdpa", thin: int | None = None) -> Any:
    """The model that the recipe trains, on the meta device: no weights, no memory.

    Head, layers, adapter and what is trained are as `dear train` has them, weights in the
    recipe's dtype.  attention: a name that transformers knows.  thin: build only so many layers.
    ConfigError for targets or layers that the base lacks.
    """
    config = base_config(recipe.model.base)
    auto: Any = hf.AutoModelForSequenceClassification
    if recipe.kind == "biencoder":
        auto = hf.AutoModel
    elif recipe.kind != "pointwise":
        auto = hf.AutoModelForCausalLM
    else:
        config.num_labels = 1
    if thin is not None:
        config.num_hidden_layers = thin
        if getattr(config, "layer_types", None):
            config.layer_types = config.layer_types[:thin]
    with torch.device("meta"), within(recipe.model.base, None):
        model = auto.from_config(
            config,
            dtype=getattr(torch, recipe.model.dtype),
            attn_implementation=attention,
            trust_remote_code=False,
        )
    if recipe.model.dropout is not None:
        set_dropout(model, recipe.model.dropout)
    if recipe.model.layers and thin is None:
        pick_layers(model, recipe.model.layers)
    if recipe.kind == "heads":
        model.requires_grad_(False)
    if recipe.model.lora is not None:
        with torch.device("meta"), quiet():  # peft asks for attributes by their old names
            if recipe.kind == "pointwise":
                heads = [name for name in HEADS if hasattr(model, name)]
                model = add_lora(model, recipe.model.lora, "SEQ_CLS", heads)
            else:
                model = add_lora(model, recipe.model.lora, "CAUSAL_LM")
    return model


def _read_config(source: Source, name: str) -> Any:
    try:
        return read_config(source)
    except BackendError as error:
        raise ConfigError(
            f"the shape of {name!r} is not known: {error}{nearest(name, PUBLISHED)}"
        ) from error


def _stays_whole(name: str) -> bool:
    parts = name.split(".")
    return "lm_head" in parts or any(p in HEAD_PARTS or p.startswith("lora_") for p in parts)
