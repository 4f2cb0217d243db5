"""Names to listwise models: a causal language model, its adapter, and how it was taught."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dear.checkpoints.contract import DType
from dear.checkpoints.contract_resolution import list_contract_of, require_listwise
from dear.checkpoints.files import model_file, revision_of
from dear.checkpoints.layers import count_parameters
from dear.checkpoints.listwise_contract import ListwiseContract
from dear.checkpoints.lora import adapter_config, attach, base_name, base_of
from dear.checkpoints.registry import Source, locate
from dear.checkpoints.tokenizer import has_tokenizer, load_tokenizer, mend_padding
from dear.errors import ConfigError, DataError
from dear.listwise.attention_heads import HEADS_FILE, PEFT_TYPE, HeadWeights
from dear.listwise.encoding import ListEncoder
from dear.scoring.loading import Reader, load_reader

__all__ = [
    "PLAIN",
    "ListModel",
    "adapter_config",
    "base_name",
    "base_of",
    "finish",
    "has_tokenizer",
    "is_heads",
    "load_causal",
    "load_list_model",
]

PLAIN = ListwiseContract(max_window=1000, max_tokens=8192, learnt="text")
"""For models that were never taught to rank lists; the model's positions are the limit."""


@dataclass(frozen=True, kw_only=True)
class ListModel:
    """A causal language model that is ready to be asked about lists.

    max_tokens: prompt and answer together, by the contract and the model's positions.
    taught: the contract was stored with the weights; a plain model has PLAIN.
    heads: what its heads count in the reading `attention`, where that was stored with it.
    """

    model: Any
    tokenizer: Any
    contract: ListwiseContract
    taught: bool
    max_tokens: int
    name: str
    revision: str
    device: torch.device
    dtype: DType
    heads: HeadWeights | None = None

    @property
    def parameters(self) -> int:
        return count_parameters(self.model)

    @property
    def encoder(self) -> ListEncoder:
        return ListEncoder(self.tokenizer)


def load_list_model(
    name: str | Path,
    *,
    contract: ListwiseContract | None = None,
    dtype: DType = "auto",
    device: str = "auto",
    merge: bool = True,
    revision: str | None = None,
) -> ListModel:
    """A causal model: folder, hub id, name or GGUF file, or a LoRA adapter or weights of heads.

    A one-logit checkpoint will do where its embeddings are the vocabulary's head, too, as in
    small models: its body was trained to score, and an adapter may sit on it.

    contract: for a model that brings none; PLAIN is the default.
    merge: fold an adapter into its base (exact, faster), or keep it live.
    revision: of a hub id: a branch, a tag or a commit.
    ConfigError: no causal model, or one without a vocabulary's head; DataError: damaged files;
    BackendError: weights that cannot be had.
    """
    source = locate(name, revision=revision)
    require_listwise(source)
    adapter = adapter_config(source)
    if adapter is not None:
        base_of(source, adapter)
        _require_known(source, adapter)
    base = source if adapter is None else base_name(source, adapter)
    reader = load_causal(base, dtype, device)
    model, tokenizer, stamp = reader.model, reader.tokenizer, reader.revision
    if adapter is not None:
        if has_tokenizer(source):
            tokenizer = load_tokenizer(source)
        if not is_heads(adapter):
            model, _ = attach(model, source, adapter, set(), merge)
            model = (model if merge else model.get_base_model()).eval()
        stamp = f"{revision_of(source)}+{stamp}"
    return finish(
        model,
        tokenizer,
        source,
        contract=contract,
        name=str(name),
        revision=stamp,
        reader=reader,
    )


def finish(
    model: Any,
    tokenizer: Any,
    source: Source,
    *,
    contract: ListwiseContract | None,
    name: str,
    revision: str,
    reader: Reader,
) -> ListModel:
    """The model with the contract of `source`. ConfigError: it and the given one differ."""
    known = list_contract_of(source, contract)
    chosen = known or PLAIN
    heads = model_file(source, HEADS_FILE)
    mend_padding(model, tokenizer)
    return ListModel(
        model=model,
        tokenizer=tokenizer,
        contract=chosen,
        taught=known is not None,
        max_tokens=min(chosen.max_tokens, _positions(model.config)),
        name=name,
        revision=revision,
        device=reader.device,
        dtype=reader.dtype,
        heads=HeadWeights.load(heads.parent) if heads is not None else None,
    )


def load_causal(name: str | Path | Source, dtype: DType, device: str) -> Reader:
    """A base model with a vocabulary's head, in eval mode on its device."""
    from transformers import AutoModelForCausalLM

    try:
        return load_reader(name, AutoModelForCausalLM, dtype=dtype, device=device)
    except DataError as error:
        if "lm_head" in str(error):
            shown = name.name if isinstance(name, Source) else name
            raise ConfigError(
                f"{shown}: the checkpoint has no vocabulary's head and its embeddings are not "
                "tied to one: it cannot write"
            ) from None
        raise


def is_heads(adapter: dict[str, Any]) -> bool:
    """Whether the folder holds weights of the base's heads, and no others."""
    return adapter.get("peft_type") == PEFT_TYPE


def _require_known(source: Source, adapter: dict[str, Any]) -> None:
    """ConfigError for adapters of another kind, and of one-logit models."""
    kind = adapter.get("peft_type")
    if kind not in ("LORA", PEFT_TYPE):
        raise ConfigError(f"{source.name}: a LoRA adapter is expected, not {kind}")
    if adapter.get("task_type") == "SEQ_CLS":
        raise ConfigError(f"{source.name}: the adapter of a one-logit model, not of a listwise one")


def _positions(config: Any) -> int:
    found = getattr(config.get_text_config(), "max_position_embeddings", None)
    return found if found is not None and found > 0 else 2**31
