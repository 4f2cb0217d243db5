"""Load a listwise model: base, adapter, contract, and the weights of its attention heads.

Head weights say which of a model's heads tell relevant passages; they are fitted on a teacher's
scores and kept as `dear_heads.json` beside a model or an adapter.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from pydantic import ConfigDict, TypeAdapter, ValidationError
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from dear.artifacts import read_json, write_json
from dear.checkpoints.adapters import adapter_config, base_name, base_of
from dear.checkpoints.contract import DType, ListwiseContract
from dear.checkpoints.contract_resolution import list_contract_of, require_listwise
from dear.checkpoints.files import has_tokenizer, model_file, model_json, reading, revision_of
from dear.checkpoints.layers import count_parameters
from dear.checkpoints.lora import attach, lora_config, read_adapter
from dear.checkpoints.registry import Source, locate
from dear.checkpoints.threads import LOADING
from dear.checkpoints.tokenizer import load_tokenizer, mend_padding
from dear.errors import ConfigError, DataError, MissingExtra, excerpt
from dear.listwise.encoding import ListEncoder
from dear.scoring.loading import Reader, load_reader

HEADS_FILE = "dear_heads.json"

PEFT_TYPE = "DEAR_HEADS"
"""What `adapter_config.json` says of a folder that holds weights of heads and no others."""

STRENGTH = 1000.0
"""Of the ridge penalty, where a hundred lists of eight are fitted; features have variance 1."""


@dataclass(frozen=True)
class HeadWeights:
    """weights: by layer, then by head.  ConfigError: rows differ in length, or not all is finite.

    A passage's score is their product with the attention that each head pays it.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")
    weights: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        if len({len(row) for row in self.weights}) != 1 or not self.shape[1]:
            raise ConfigError("weights of heads: a row for each layer, all of one length")
        if not all(math.isfinite(weight) for row in self.weights for weight in row):
            raise ConfigError("weights of heads must be finite")

    @property
    def shape(self) -> tuple[int, int]:
        """(layers, heads)."""
        return len(self.weights), len(self.weights[0])

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(repr(self.weights).encode()).hexdigest()[:16]

    def save(self, folder: Path) -> None:
        write_json(folder / HEADS_FILE, asdict(self))

    @classmethod
    def load(cls, folder: Path) -> HeadWeights:
        """DataError: the file is missing, or is none."""
        path = folder / HEADS_FILE
        try:
            return TypeAdapter(cls).validate_python(read_json(path))
        except (ValidationError, ConfigError) as error:
            raise DataError.at(path, None, excerpt(str(error))) from None


def fit_heads(
    paid: Sequence[NDArray[np.float32]],
    scores: Sequence[ArrayLike],
    *,
    strength: float = STRENGTH,
) -> HeadWeights:
    """Ridge regression of a teacher's scores, standardised within each list.

    paid: (N, layers, heads) for each list, as `InContext.paid` gives it.  scores: (N,) for each.
    ConfigError: nothing to learn from, no positive strength.
    """
    if not 0 < strength < math.inf:
        raise ConfigError("strength must be above 0")
    targets = [np.asarray(given, dtype=np.float64) for given in scores]
    kept = [i for i, given in enumerate(targets) if given.std() > 0]
    if not kept:
        raise ConfigError("no list whose scores differ: there is nothing to fit heads on")
    wanted = np.concatenate([(targets[i] - targets[i].mean()) / targets[i].std() for i in kept])
    lists = [np.asarray(paid[i], dtype=np.float64) for i in kept]
    shape = lists[0].shape[1:]
    rows = np.concatenate([(one - one.mean(0)).reshape(len(one), -1) for one in lists])
    scale = np.maximum(rows.std(0), 1e-12)
    rows /= scale
    gram = rows.T @ rows + strength * np.eye(rows.shape[1])
    found = np.linalg.solve(gram, rows.T @ wanted) / scale
    return HeadWeights(tuple(tuple(row) for row in found.reshape(shape).tolist()))


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


Use: TypeAlias = Literal["pointwise", "lists"]
HEAD = "score.weight"


@dataclass(frozen=True, slots=True)
class Side:
    """A checkpoint that is to share its base.

    adapter: what its folder says of it, None for full weights, and where only heads are weighted.
    base:    the weights below the adapter, or its own.
    typed:   their name as the user, or the adapter, wrote it.
    """

    source: Source
    adapter: dict[str, Any] | None
    base: Source
    typed: str


def side_of(name: str | Path) -> Side:
    """ConfigError: no such model, or an adapter that is no LoRA."""
    source = locate(name)
    adapter = adapter_config(source)
    if adapter is None:
        return Side(source, None, source, str(name))
    base = base_of(source, adapter)
    if is_heads(adapter):
        return Side(source, None, base, base_name(source, adapter))
    if adapter.get("peft_type") != "LORA":
        raise ConfigError(f"{name}: a LoRA adapter is expected, not {adapter.get('peft_type')}")
    return Side(source, adapter, base, base_name(source, adapter))


def share_base(pointwise: str | Path, lists: str | Path) -> bool:
    """True if both can sit on one backbone, and one of them is an adapter."""
    a, b = side_of(pointwise), side_of(lists)
    return _place(a) == _place(b) and bool(a.adapter or b.adapter)


def common_base(pointwise: Side, lists: Side) -> str:
    """What both sit on, as it was named. ConfigError: two different bases."""
    if _place(pointwise) != _place(lists):
        raise ConfigError(
            f"no common backbone: {pointwise.source.name} sits on {pointwise.base.name}, "
            f"{lists.source.name} on {lists.base.name}"
        )
    return lists.typed if lists.adapter is not None else pointwise.typed


def head_of(side: Side) -> torch.Tensor:
    """float32 (outputs, H), the pointwise head. ConfigError: there is none."""
    source = side.source
    if side.adapter is not None:
        found = read_adapter(source).get(HEAD)
        if found is not None:
            return found.float()
    index = model_json(source, "model.safetensors.index.json").get("weight_map", {})
    names = sorted(set(index.values())) or ["model.safetensors"]
    paths = [model_file(source, name) for name in names if source.gguf_file is None]
    for path in filter(None, paths):
        with reading(source), safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 (it is no mapping)
                if _is_head(key):
                    return torch.as_tensor(file.get_tensor(key)).float()
    raise ConfigError(f"{source.name}: no one-logit head ({HEAD}) among its safetensors")


class LiveAdapters:
    """The LoRA adapters of both sides in the layers of one causal model, one of them active.

    active: whose adapter is in force; None before the first switch, and where one has failed.
    """

    @LOADING
    def __init__(self, model: Any, pointwise: Side, lists: Side) -> None:
        self.wrapped: Any = None
        self.active: Use | None = None
        self._has: dict[Use, bool] = {}
        sides: tuple[tuple[Use, Side], ...] = (("pointwise", pointwise), ("lists", lists))
        for use, side in sides:
            self._has[use] = side.adapter is not None
            if side.adapter is not None:
                self._add(model, use, side)
        model.eval().requires_grad_(False)

    def switch(self, use: Use) -> None:
        """The adapter of this use, or none where its side is the base itself."""
        if self.active == use:
            return
        # peft walks through all modules for each of these, so no more of them than are needed
        both, self.active = all(self._has.values()), None
        if self.wrapped is not None and self._has[use]:
            if not both:
                self.wrapped.base_model.enable_adapter_layers()
            self.wrapped.set_adapter(use, inference_mode=True)
        elif self.wrapped is not None:
            self.wrapped.base_model.disable_adapter_layers()
        self.active = use

    def _add(self, model: Any, use: Use, side: Side) -> None:
        try:
            from peft import PeftModel, set_peft_model_state_dict
        except ImportError:
            raise MissingExtra.of("peft", "train") from None
        source = side.source
        weights = read_adapter(source)
        lora = {
            f"base_model.model.{key}": value for key, value in weights.items() if "lora_" in key
        }
        bare = {key: value for key, value in weights.items() if "lora_" in key}
        config = lora_config(source, side.adapter or {}, model, bare)
        more = sorted(key for key in weights if "lora_" not in key and not _is_head(key))
        if more or config.bias != "none":
            raise ConfigError(
                f"{source.name}: the adapter changes more than LoRA layers "
                f"({more[0] if more else 'biases'}), so it cannot share its base"
            )
        config.modules_to_save, config.task_type, config.inference_mode = None, None, True
        with reading(source):
            if self.wrapped is None:
                # in the base's dtype: two of rank 16 in float32 are a seventh of a small base
                self.wrapped = PeftModel(
                    model, config, adapter_name=use, autocast_adapter_dtype=False
                )
            else:
                self.wrapped.add_adapter(use, config, autocast_adapter_dtype=False)
            found: Any = set_peft_model_state_dict(self.wrapped, lora, adapter_name=use)
        odd = [key for key in found.missing_keys if "lora_" in key and f".{use}." in key]
        odd += found.unexpected_keys
        if odd or not lora:
            shown = odd[0] if odd else "it has no LoRA weights"
            raise DataError.at(source.path, None, f"the adapter does not fit its base: {shown}")


def _is_head(key: str) -> bool:
    return key == HEAD or key.endswith(f".{HEAD}")


def _place(side: Side) -> tuple[str, str | None, str | None]:
    return side.base.path, side.base.gguf_file, side.base.revision
