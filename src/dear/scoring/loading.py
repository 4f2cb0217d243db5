"""Names to models: base weights, tokenizer, adapters and contract, mended once, here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification

from dear.checkpoints.adapters import adapter_config, base_of
from dear.checkpoints.composite import chat_contract, load_answering, load_modules
from dear.checkpoints.contract import DType, ScoringContract
from dear.checkpoints.contract_resolution import Resolved, require_pointwise, resolve
from dear.checkpoints.files import TOKENIZER_FILES, has_tokenizer, revision_of
from dear.checkpoints.hardware import (
    QUANTISED,
    SHARDED,
    pick_attention,
    pick_device,
    pick_dtype,
    to_device,
    weight_options,
)
from dear.checkpoints.heads import (
    float32_head,
    is_head,
    pool_by_mask,
    pooled_logits,
    pools_by_mask,
)
from dear.checkpoints.layers import (
    check_length,
    count_parameters,
    find_layers,
    fit_length,
    own_length,
    pick_layers,
)
from dear.checkpoints.lora import attach, require_scorer
from dear.checkpoints.processor import processor_name
from dear.checkpoints.registry import Source, locate
from dear.checkpoints.sentence_transformers import transformer_entry
from dear.checkpoints.tokenizer import load_tokenizer, mend_padding, require_rows
from dear.checkpoints.weights import (
    classifier_config,
    gguf_as_safetensors,
    is_classifier,
    read_pretrained,
    require_one_output,
    writes,
)
from dear.checkpoints.wrappers import bare_model
from dear.errors import ConfigError
from dear.scoring.company import PROBE, require_computing
from dear.scoring.encoding import PairEncoder
from dear.scoring.tensors import collate

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
    why: this contract and no other.
    """

    model: Any
    tokenizer: Any
    contract: ScoringContract
    name: str
    revision: str
    device: torch.device
    why: str = ""

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
    def runs_on(self) -> list[str | int]:
        """Device, processor, threads, PyTorch's version; see `dear.scoring.budget`."""
        cuda = self.device.type == "cuda"
        device = torch.cuda.get_device_name(self.device) if cuda else self.device.type
        return [device, processor_name(), torch.get_num_threads(), torch.__version__]

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
    contract: ScoringContract | str | Path | None = None,
    dtype: DType = "auto",
    device: str = "auto",
    merge: bool = True,
    revision: str | None = None,
    instruction: str | None = None,
) -> ScoringModel:
    """A checkpoint that scores: folder, hub id or name; full weights or LoRA adapter.

    contract: one, its name, or a file that holds one. It must agree with the one the checkpoint
        carries (ContractMismatch otherwise); for a checkpoint that carries none it is taken as
        given. None: what `dear.checkpoints.contract_resolution.resolve` finds.
    instruction: what the model is to look for, where its contract has a place for it
        (ConfigError otherwise); None is the contract's own.
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
    resolved = resolve(source, contract)
    chosen = resolved.contract
    where = pick_device(device)
    picked = pick_dtype(chosen.dtype if dtype == "auto" else dtype, where)
    # a low-rank update vanishes in the steps of 8 and 4 bits
    merge = merge and picked not in QUANTISED
    model, tokenizer, chosen = _load_resolved(
        str(name), source, resolved, picked, where, merge=merge, sharded=device == SHARDED
    )
    chosen = replace(chosen, dtype=picked, pooling="mask" if pools_by_mask(model) else "model")
    if instruction is not None:
        chosen = replace(chosen, instruction=instruction)
    chosen = fit_length(model.config, chosen, str(name))
    to_device(model, where)
    float32_head(model)
    model.eval()
    asked = resolved.contract.dtype if dtype == "auto" else dtype
    if not pools_by_mask(model) and not require_computing(
        str(name), asked, picked, lambda: _first_pass(model, tokenizer, chosen, where)
    ):
        return load_scoring_model(
            name,
            contract=contract,
            dtype="float32",
            device=device,
            merge=merge,
            revision=revision,
            instruction=instruction,
        )
    resolved.tell(str(name), chosen)
    return ScoringModel(
        model=model,
        tokenizer=tokenizer,
        contract=chosen,
        name=str(name),
        revision=_revision(source),
        device=where,
        why=resolved.why,
    )


def _load_resolved(
    name: str,
    source: Source,
    resolved: Resolved,
    dtype: DType,
    device: torch.device,
    *,
    merge: bool,
    sharded: bool,
) -> tuple[Any, Any, ScoringContract]:
    """(model, tokenizer, contract), the contract completed by what these say."""
    contract = resolved.contract
    if resolved.modules:
        model, tokenizer = load_modules(
            source,
            attn_implementation=pick_attention(device),
            **weight_options(dtype, device, sharded=sharded),
        )
    elif (contract.yes or resolved.answers) and not is_classifier(source):
        model, tokenizer, contract = load_answering(
            gguf_as_safetensors(source),
            contract,
            attn_implementation=pick_attention(device),
            **weight_options(dtype, device, sharded=sharded),
        )
    else:
        model, tokenizer, fresh = load_weights(
            source, dtype=dtype, merge=merge, device=device, sharded=sharded
        )
        if fresh:
            raise _without_head(name, source, fresh)
        require_one_output(name, model.config.num_labels)
        if resolved.own_length:  # of sentence-transformers' files, or asked to be like them
            contract = chat_contract(source, tokenizer, contract)
    if resolved.own_length:
        entry = transformer_entry(source)
        length = own_length(source, tokenizer, model.config, entry=entry)
        contract = replace(contract, max_tokens=length)
    return model, tokenizer, contract


def _first_pass(
    model: Any, tokenizer: Any, contract: ScoringContract, device: torch.device
) -> None:
    encoded = PairEncoder(tokenizer, contract).encode(PROBE[:1])
    inputs = collate(encoded, pad_id=tokenizer.pad_token_id)
    with torch.inference_mode():
        pooled_logits(model, *(tensor.to(device) for tensor in inputs))


def _without_head(name: str, source: Source, fresh: set[str]) -> ConfigError:
    """With the ways out that there are."""
    ways = [f"biencoder:{name}", *([f"upr:{name}"] if writes(source) else [])]
    return ConfigError(
        f"{name}: this model has no trained one-logit head ({', '.join(sorted(fresh))}); "
        f"train one with `dear train`, or read it without training: {' or '.join(ways)}"
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
    adapter = adapter_config(source)
    base = source if adapter is None else base_of(source, adapter)
    base = gguf_as_safetensors(base)
    own_tokenizer = adapter is not None and has_tokenizer(source)
    tokenizer = load_tokenizer(source if own_tokenizer else base)
    overrides = {"num_labels": 1} if classifier_config(base) is None else {}
    model, info = read_pretrained(
        AutoModelForSequenceClassification,
        base,
        attn_implementation=pick_attention(device),
        **weight_options(dtype, device or torch.device("cpu"), sharded=sharded),
        **overrides,
    )
    fresh = {key for key in info["missing_keys"] if is_head(key)}
    spared = mend_padding(model, tokenizer)
    pool_by_mask(model)
    if adapter is not None:
        model, fresh = attach(model, source, adapter, fresh, merge)
    require_rows(bare_model(model), tokenizer, source.name, spared=spared)
    return model, tokenizer, fresh


def load_reader(
    name: str | Path | Source,
    auto: Any,
    *,
    dtype: DType = "auto",
    device: str = "auto",
    revision: str | None = None,
    stamped: Source | None = None,
) -> Reader:
    """A model of the transformers auto class `auto`, whole, on its device, in eval mode.

    stamped: the folder whose revision counts, where the weights are only a part of it.
    """
    where = pick_device(device)
    picked = pick_dtype(dtype, where)
    named = name if isinstance(name, Source) else locate(name, revision=revision)
    source = gguf_as_safetensors(named)
    tokenizer = load_tokenizer(source)
    model, _ = read_pretrained(
        auto,
        source,
        attn_implementation=pick_attention(where),
        **weight_options(picked, where, sharded=device == SHARDED),
    )
    spared = mend_padding(model, tokenizer)
    require_rows(model, tokenizer, named.name, spared=spared)
    to_device(model, where)
    model.eval()
    return Reader(
        model=model,
        tokenizer=tokenizer,
        source=source,
        revision=revision_of(stamped or named),
        device=where,
        dtype=picked,
    )


def _revision(source: Source) -> str:
    """Of the weights; an adapter's scores change with its base, too."""
    adapter = adapter_config(source)
    own = revision_of(source)
    return own if adapter is None else f"{own}+{revision_of(base_of(source, adapter))}"
