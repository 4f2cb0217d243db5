"""Names to models: base weights, tokenizer, adapters and contract, mended once, here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from dear.errors import ConfigError
from dear.models.contract import DType, ScoringContract
from dear.models.family import Source, locate
from dear.models.files import reading, revision_of
from dear.models.gguf import drop_quantization, gguf_as_safetensors
from dear.models.hardware import SHARDED, pick_attention, pick_device, pick_dtype
from dear.models.heads import bare_model, float32_head, is_head, pool_by_mask, pools_by_mask
from dear.models.layers import check_length, count_parameters, find_layers, pick_layers
from dear.models.lora import adapter_config, attach, base_of, require_scorer
from dear.models.published import contract_of, require_pointwise
from dear.models.quantised import QUANTISED, to_device, weight_options
from dear.models.threads import LOADING
from dear.models.tokenizing import (
    TOKENIZER_FILES,
    has_tokenizer,
    load_tokenizer,
    mend_padding,
)
from dear.models.weights import (
    classifier_config,
    require_one_output,
    require_safetensors,
    require_whole,
)

__all__ = [
    "TOKENIZER_FILES",
    "Reader",
    "ScoringModel",
    "check_length",
    "count_parameters",
    "find_layers",
    "load_reader",
    "load_scoring_model",
    "load_tokenizer",
    "load_weights",
    "mend_padding",
    "pick_layers",
]


@dataclass(frozen=True, kw_only=True)
class ScoringModel:
    """A one-logit model that is ready to score.

    contract.dtype is the dtype in force, never "auto". `revision` changes with the weights.
    """

    model: Any
    tokenizer: Any
    contract: ScoringContract
    name: str
    revision: str
    device: torch.device

    @property
    def parameters(self) -> int:
        return count_parameters(self.model)

    @property
    def architecture(self) -> str:
        """Class, width and depth: models of one architecture are as fast as each other."""
        bare = bare_model(self.model)
        config = bare.config.get_text_config()
        sizes = (getattr(config, key, None) for key in ("hidden_size", "num_hidden_layers"))
        return " ".join(map(str, (type(bare).__name__, *sizes)))

    @property
    def working_parameters(self) -> int:
        """Those that multiply: all but the input embedding, which is looked up."""
        return self.parameters - count_parameters(self.model.get_input_embeddings())

    @property
    def is_decoder(self) -> bool:
        return pools_by_mask(self.model)


@dataclass(frozen=True, kw_only=True)
class Reader:
    """A model that is read without a head of ours: a bi-encoder, a language model."""

    model: Any
    tokenizer: Any
    source: Source
    revision: str
    device: torch.device
    dtype: DType


def load_scoring_model(
    name: str | Path,
    *,
    contract: ScoringContract | None = None,
    dtype: DType = "auto",
    device: str = "auto",
    merge: bool = True,
    revision: str | None = None,
) -> ScoringModel:
    """A checkpoint that scores: folder, hub id or name; full weights or LoRA adapter.

    contract: must agree with the one the checkpoint carries (ContractMismatch otherwise); for a
    checkpoint that carries none it is taken as given, and the published one is the default.
    dtype: "auto" leaves it to the contract, and to the machine where that says "auto" too; "int8"
        and "int4" are weights of 8 and 4 bits, an adapter beside them.
    merge: fold a LoRA adapter into its base (exact, faster) or keep it live.
    Raises ConfigError for a model without a trained one-logit head, DataError for damaged files,
    BackendError for weights that cannot be had.
    """
    source = locate(name, revision=revision)
    require_pointwise(source)
    adapter = adapter_config(source)
    if adapter is not None:
        require_scorer(source, adapter)
    chosen = contract_of(source, contract)
    where = pick_device(device)
    picked = pick_dtype(chosen.dtype if dtype == "auto" else dtype, where)
    # a low-rank update vanishes in the steps of 8 and 4 bits
    merge = merge and picked not in QUANTISED
    model, tokenizer, fresh = load_weights(
        source, dtype=picked, merge=merge, device=where, sharded=device == SHARDED
    )
    if fresh:
        raise ConfigError(
            f"{name}: this model has no trained one-logit head ({', '.join(sorted(fresh))}); "
            "train one with `dear train`, or read it without training: "
            f"biencoder:{name} or upr:{name}"
        )
    require_one_output(str(name), model.config.num_labels)
    chosen = replace(chosen, dtype=picked, pooling="mask" if pools_by_mask(model) else "model")
    check_length(model.config, chosen, str(name))
    to_device(model, where)
    float32_head(model)
    model.eval()
    return ScoringModel(
        model=model,
        tokenizer=tokenizer,
        contract=chosen,
        name=str(name),
        revision=_revision(source),
        device=where,
    )


def load_weights(
    source: Source,
    *,
    dtype: DType,
    merge: bool = True,
    device: torch.device | None = None,
    sharded: bool = False,
) -> tuple[Any, Any, set[str]]:
    """(model, tokenizer, names of head weights that were newly made) for a sequence classifier.

    The head of a base model is made new with one output, from torch's current seed. The weights
    are on the CPU; `device` only says where they will be used. Weights of 8 and 4 bits go there,
    and `sharded` ones to all GPUs, while they are read.
    """
    from transformers import AutoModelForSequenceClassification

    adapter = adapter_config(source)
    base = source if adapter is None else base_of(source, adapter)
    base = gguf_as_safetensors(base)
    own_tokenizer = adapter is not None and has_tokenizer(source)
    tokenizer = load_tokenizer(source if own_tokenizer else base)
    overrides = {"num_labels": 1} if classifier_config(base) is None else {}
    model, info = _read(
        AutoModelForSequenceClassification,
        base,
        attn_implementation=pick_attention(device),
        **weight_options(dtype, device or torch.device("cpu"), sharded=sharded),
        **overrides,
    )
    fresh = {key for key in info["missing_keys"] if is_head(key)}
    mend_padding(model, tokenizer)
    pool_by_mask(model)
    if adapter is not None:
        model, fresh = attach(model, source, adapter, fresh, merge)
    return model, tokenizer, fresh


def load_reader(
    name: str | Path, auto: Any, *, dtype: DType = "auto", device: str = "auto"
) -> Reader:
    """A model of the transformers auto class `auto`, whole, on its device, in eval mode."""
    where = pick_device(device)
    picked = pick_dtype(dtype, where)
    named = locate(name)
    source = gguf_as_safetensors(named)
    tokenizer = load_tokenizer(source)
    model, _ = _read(
        auto,
        source,
        attn_implementation=pick_attention(where),
        **weight_options(picked, where, sharded=device == SHARDED),
    )
    to_device(model, where)
    model.eval()
    return Reader(
        model=model,
        tokenizer=tokenizer,
        source=source,
        revision=revision_of(named),
        device=where,
        dtype=picked,
    )


@LOADING
def _read(auto: Any, source: Source, **options: Any) -> tuple[Any, dict[str, Any]]:
    """(a whole model of an auto class, what `from_pretrained` says of its loading)."""
    require_safetensors(source)
    with reading(source):
        model, info = _from_pretrained(
            auto,
            source.path,
            gguf_file=source.gguf_file,
            revision=source.revision,
            output_loading_info=True,
            # looked at below, where an error can name them
            ignore_mismatched_sizes=True,
            trust_remote_code=False,
            **({} if source.gguf_file else {"use_safetensors": True}),
            **options,
        )
    require_whole(source, info)
    # dequantised weights are plain, and an adapter trained on them names what the user named
    if source.gguf_file:
        drop_quantization(model)
    model.name_or_path = model.config._name_or_path = source.name
    return model, info


def _from_pretrained(auto: Any, path: str, **options: Any) -> Any:
    """`auto.from_pretrained`, with eager attention for a model that has no other."""
    try:
        return auto.from_pretrained(path, **options)
    except ValueError as error:
        if "attn_implementation" not in str(error):
            raise
    return auto.from_pretrained(path, **options | {"attn_implementation": "eager"})


def _revision(source: Source) -> str:
    """Of the weights; an adapter's scores change with its base, too."""
    adapter = adapter_config(source)
    own = revision_of(source)
    return own if adapter is None else f"{own}+{revision_of(base_of(source, adapter))}"
