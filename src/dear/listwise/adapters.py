"""The two checkpoints that share a base, and their adapters alive in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch

from dear.checkpoints.files import model_file, model_json, reading
from dear.checkpoints.lora import lora_config, read_adapter
from dear.checkpoints.registry import Source, locate
from dear.checkpoints.threads import LOADING
from dear.errors import ConfigError, DataError, MissingExtra
from dear.listwise.loading import adapter_config, base_name, base_of, is_heads

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
    from safetensors import safe_open

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
