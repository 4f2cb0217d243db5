"""Names to listwise models: a causal language model, its adapter, and how it was taught."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dear.errors import ConfigError, DataError, MissingExtra
from dear.models.contract import DType
from dear.models.family import Source, locate
from dear.models.files import model_file, model_json, reading, revision_of
from dear.models.list_encoding import ListEncoder
from dear.models.lists.attention_heads import HEADS_FILE, PEFT_TYPE, HeadWeights
from dear.models.listwise_contract import LISTWISE_FILE, ListwiseContract
from dear.models.loading import (
    TOKENIZER_FILES,
    Reader,
    count_parameters,
    load_reader,
    load_tokenizer,
    mend_padding,
)

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
) -> ListModel:
    """A causal model: folder, hub id, name or GGUF file, or a LoRA adapter or weights of heads.

    A one-logit checkpoint will do where its embeddings are the vocabulary's head, too, as in
    small models: its body was trained to score, and an adapter may sit on it.

    contract: for a model that brings none; PLAIN is the default.
    merge: fold an adapter into its base (exact, faster), or keep it live.
    ConfigError: no causal model, or one without a vocabulary's head; DataError: damaged files;
    BackendError: weights that cannot be had.
    """
    source = locate(name)
    adapter = adapter_config(source)
    if adapter is not None:
        base_of(source, adapter)
        require_known(source, adapter)
    reader = load_causal(name if adapter is None else base_name(adapter), dtype, device)
    model, tokenizer, revision = reader.model, reader.tokenizer, reader.revision
    if adapter is not None:
        if has_tokenizer(source):
            tokenizer = load_tokenizer(source)
        if not is_heads(adapter):
            model = _with_adapter(model, source, merge)
        revision = f"{revision_of(source)}+{revision}"
    return finish(
        model,
        tokenizer,
        source,
        contract=contract,
        name=str(name),
        revision=revision,
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
    path = model_file(source, LISTWISE_FILE)
    stored = ListwiseContract.load(path.parent) if path is not None else None
    if stored is not None and contract is not None and stored != contract:
        raise ConfigError(f"{name}: the model brings a listwise contract of its own: {stored}")
    chosen = stored or contract or PLAIN
    heads = model_file(source, HEADS_FILE)
    mend_padding(model, tokenizer)
    return ListModel(
        model=model,
        tokenizer=tokenizer,
        contract=chosen,
        taught=stored is not None or contract is not None,
        max_tokens=min(chosen.max_tokens, _positions(model.config)),
        name=name,
        revision=revision,
        device=reader.device,
        dtype=reader.dtype,
        heads=HeadWeights.load(heads.parent) if heads is not None else None,
    )


def load_causal(name: str | Path, dtype: DType, device: str) -> Reader:
    """A base model with a vocabulary's head, in eval mode on its device."""
    from transformers import AutoModelForCausalLM

    try:
        return load_reader(name, AutoModelForCausalLM, dtype=dtype, device=device)
    except DataError as error:
        if "lm_head" in str(error):
            raise ConfigError(
                f"{name}: the checkpoint has no vocabulary's head and its embeddings are not "
                "tied to one: it cannot write"
            ) from None
        raise


def adapter_config(source: Source) -> dict[str, Any] | None:
    """What the folder of a LoRA adapter says of it; None for other models."""
    if source.gguf_file is not None or model_file(source, "adapter_config.json") is None:
        return None
    return model_json(source, "adapter_config.json")


def base_of(source: Source, adapter: dict[str, Any]) -> Source:
    """Where the weights are that an adapter sits on. DataError, ConfigError: nowhere."""
    named = adapter.get("base_model_name_or_path")
    if not named:
        raise DataError.at(source.path, None, "the adapter names no base_model_name_or_path")
    try:
        return locate(named)
    except ConfigError as error:
        raise ConfigError(f"{source.name}: the adapter's base: {error}") from None


def base_name(adapter: dict[str, Any]) -> str:
    return str(adapter["base_model_name_or_path"])


def has_tokenizer(source: Source) -> bool:
    return any(model_file(source, name) is not None for name in TOKENIZER_FILES)


def is_heads(adapter: dict[str, Any]) -> bool:
    """Whether the folder holds weights of the base's heads, and no others."""
    return adapter.get("peft_type") == PEFT_TYPE


def require_known(source: Source, adapter: dict[str, Any]) -> None:
    """ConfigError for adapters of another kind, and of one-logit models."""
    kind = adapter.get("peft_type")
    if kind not in ("LORA", PEFT_TYPE):
        raise ConfigError(f"{source.name}: a LoRA adapter is expected, not {kind}")
    if adapter.get("task_type") == "SEQ_CLS":
        raise ConfigError(f"{source.name}: the adapter of a one-logit model, not of a listwise one")


def _with_adapter(model: Any, source: Source, merge: bool) -> Any:
    try:
        from peft import PeftModel
    except ImportError:
        raise MissingExtra.of("peft", "train") from None
    with reading(source):
        wrapped = PeftModel.from_pretrained(model, source.path, revision=source.revision)
    return (wrapped.merge_and_unload() if merge else wrapped.get_base_model()).eval()


def _positions(config: Any) -> int:
    found = getattr(config.get_text_config(), "max_position_embeddings", None)
    return found if found is not None and found > 0 else 2**31
