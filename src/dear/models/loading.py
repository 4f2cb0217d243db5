"""Names to models: base weights, tokenizer, adapters and contract, mended once, here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dear.errors import ConfigError, DataError, MissingExtra
from dear.models.contract import CARD, CONTRACT_FILE, DType, ScoringContract
from dear.models.family import Source, locate
from dear.models.files import model_file, model_json, reading, revision_of
from dear.models.gguf import drop_quantization, gguf_as_safetensors
from dear.models.hardware import SHARDED, pick_attention, pick_device, pick_dtype
from dear.models.heads import (
    bare_model,
    first_position,
    float32_head,
    is_head,
    pool_by_mask,
    pools_by_mask,
)
from dear.models.quantised import QUANTISED, to_device, weight_options

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.txt",
    "vocab.json",
)
"""One of these is in every folder that holds a tokenizer."""


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
    checkpoint that carries none it is taken as given, and CARD is the default.
    dtype: "auto" leaves it to the contract, and to the machine where that says "auto" too; "int8"
        and "int4" are weights of 8 and 4 bits, an adapter beside them.
    merge: fold a LoRA adapter into its base (exact, faster) or keep it live.
    Raises ConfigError for a model without a trained one-logit head, DataError for damaged files,
    BackendError for weights that cannot be had.
    """
    source = locate(name, revision=revision)
    chosen = _contract(source, contract)
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
    if model.config.num_labels != 1:
        raise ConfigError(f"{name}: {model.config.num_labels} outputs, but a reranker has one")
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

    adapter = _adapter_config(source)
    base = source if adapter is None else _base_of(source, adapter)
    base = gguf_as_safetensors(base)
    own_tokenizer = adapter is not None and _has_tokenizer(source)
    tokenizer = load_tokenizer(source if own_tokenizer else base)
    overrides = {} if _is_classifier(base) else {"num_labels": 1}
    with reading(base):
        model, info = AutoModelForSequenceClassification.from_pretrained(
            base.path,
            gguf_file=base.gguf_file,
            revision=base.revision,
            attn_implementation=pick_attention(device),
            output_loading_info=True,
            trust_remote_code=False,
            **weight_options(dtype, device or torch.device("cpu"), sharded=sharded),
            **overrides,
        )
    fresh = {key for key in info["missing_keys"] if is_head(key)}
    _require_whole(base, info["missing_keys"])
    _as_named(model, base)
    mend_padding(model, tokenizer)
    pool_by_mask(model)
    if adapter is not None:
        model, fresh = _attach(model, source, adapter, fresh, merge)
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
    with reading(source):
        model, info = auto.from_pretrained(
            source.path,
            gguf_file=source.gguf_file,
            revision=source.revision,
            attn_implementation=pick_attention(where),
            output_loading_info=True,
            trust_remote_code=False,
            **weight_options(picked, where, sharded=device == SHARDED),
        )
    _require_whole(source, info["missing_keys"])
    _as_named(model, source)
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


def load_tokenizer(source: Source) -> Any:
    """The fast tokenizer of a model, with a pad token."""
    from transformers import AutoTokenizer

    folder = source.folder
    if folder is not None and source.gguf_file is None and not _has_tokenizer(source):
        raise DataError.at(folder, None, "no tokenizer (tokenizer.json) beside the weights")
    with reading(source):
        tokenizer = AutoTokenizer.from_pretrained(
            source.path,
            gguf_file=source.gguf_file,
            revision=source.revision,
            trust_remote_code=False,
        )
    if not tokenizer.is_fast:
        raise ConfigError(f"{source.path}: the tokenizer has no fast form (tokenizer.json)")
    if tokenizer.pad_token_id is None:
        substitute = tokenizer.eos_token or tokenizer.unk_token
        if substitute is None:
            raise ConfigError(f"{source.path}: the tokenizer has no pad, eos or unk token")
        tokenizer.pad_token = substitute
    return tokenizer


def mend_padding(model: Any, tokenizer: Any) -> None:
    """One pad id in tokenizer and configuration, and one that the embedding has."""
    rows = model.get_input_embeddings().num_embeddings
    if tokenizer.pad_token_id >= rows:
        # a pad token that was added to the tokenizer alone
        known = (tokenizer.eos_token, tokenizer.unk_token, tokenizer.bos_token)
        ids = [t for t in known if t and tokenizer.convert_tokens_to_ids(t) < rows]
        if not ids:
            raise ConfigError(
                f"the pad id {tokenizer.pad_token_id} is outside the model's {rows} embeddings"
            )
        tokenizer.pad_token = ids[0]
    model.config.pad_token_id = tokenizer.pad_token_id
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id


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


def find_layers(model: nn.Module, count: int) -> tuple[nn.Module, str]:
    """(the module that holds the list of `count` layers, the list's name in it)."""
    for parent in model.modules():
        for name, child in parent.named_children():
            if isinstance(child, nn.ModuleList) and len(child) == count:
                return parent, name
    raise ConfigError(f"{type(model).__name__}: found no list of {count} layers to pick from")


def _contract(source: Source, given: ScoringContract | None) -> ScoringContract:
    """The stored contract, which a given one must agree with, or the given one, or CARD."""
    path = model_file(source, CONTRACT_FILE)
    stored = ScoringContract.load(path.parent) if path is not None else None
    if stored is not None and given is not None:
        # what the model and the machine decide is no disagreement
        stored.require(given, what=source.name, ignore=("dtype", "pooling"))
    return stored or given or CARD


def _attach(
    model: Any, source: Source, adapter: dict[str, Any], fresh: set[str], merge: bool
) -> tuple[Any, set[str]]:
    """The model with its adapter, and the head weights that the adapter does not bring."""
    try:
        from peft import PeftModel, load_peft_weights
    except ImportError:
        raise MissingExtra.of("peft", "train") from None
    with reading(source):
        brought = load_peft_weights(source.path, device="cpu", revision=source.revision)
    fresh = {key for key in fresh if not any(b.endswith(key) for b in brought)}
    if fresh and adapter.get("task_type") == "SEQ_CLS":
        # peft would look for the head among the adapter's weights
        raise ConfigError(f"{source.name}: the adapter lacks its head ({', '.join(sorted(fresh))})")
    with reading(source):
        wrapped = PeftModel.from_pretrained(model, source.path, revision=source.revision)
    return (wrapped.merge_and_unload() if merge else wrapped), fresh


def _as_named(model: Any, source: Source) -> None:
    """Dequantised weights are plain, and an adapter trained on them names what the user named."""
    if source.gguf_file:
        drop_quantization(model)
    model.name_or_path = model.config._name_or_path = source.name


def _is_classifier(source: Source) -> bool:
    """True if the configuration names a sequence classifier, whose own head is kept."""
    if source.gguf_file is not None:
        return False
    from transformers import AutoConfig

    folder = source.folder
    if folder is not None and not model_json(source, "config.json"):
        raise DataError.at(folder, None, "no config.json: this is no model's folder")
    with reading(source):
        config = AutoConfig.from_pretrained(source.path, revision=source.revision)
    return any("SequenceClassification" in a for a in config.architectures or ())


def _has_tokenizer(source: Source) -> bool:
    return any(model_file(source, name) is not None for name in TOKENIZER_FILES)


def _adapter_config(source: Source) -> dict[str, Any] | None:
    if source.gguf_file is not None:
        return None
    path = model_file(source, "adapter_config.json")
    if path is None:
        return None
    config = model_json(source, "adapter_config.json")
    if not config.get("base_model_name_or_path"):
        raise DataError.at(path, None, "names no base_model_name_or_path")
    return config


def _base_of(source: Source, adapter: dict[str, Any]) -> Source:
    base = adapter["base_model_name_or_path"]
    try:
        return locate(base)
    except ConfigError as error:
        raise ConfigError(f"{source.name}: the adapter's base: {error}") from None


def _revision(source: Source) -> str:
    """Of the weights; an adapter's scores change with its base, too."""
    adapter = _adapter_config(source)
    own = revision_of(source)
    return own if adapter is None else f"{own}+{revision_of(_base_of(source, adapter))}"


def _require_whole(source: Source, missing_keys: set[str]) -> None:
    """A checkpoint that lacks weights of its body would score noise."""
    missing = sorted(key for key in missing_keys if not is_head(key))
    if missing:
        raise DataError.at(
            source.path,
            None,
            f"the checkpoint lacks {len(missing)} weights: {', '.join(missing[:3])} …",
        )
