"""The modules behind a transformer in sentence-transformers' folders: pooling, dense, norms.

Read from their settings and weights, without that library: they become part of a model that all
our engines, dtypes and exports take. What is not read here is left to the library itself
(`dear.scoring.sentence_transformers_library`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file
from torch import nn

from dear.checkpoints.activations import make_activation
from dear.checkpoints.files import model_file, model_json, reading
from dear.checkpoints.registry import Source
from dear.checkpoints.sentence_transformers import ModuleEntry, modules_of
from dear.checkpoints.weights import pickled
from dear.errors import ConfigError, DataError
from dear.notices import warn

Module = TypeVar("Module", bound=nn.Module)

Features = dict[str, torch.Tensor]
"""token_embeddings (B, T, H), attention_mask (B, T), then what each module writes."""

SENTENCE = "sentence_embedding"

_OLD_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""Switches of versions before 5, in the order in which their vectors are joined."""


def _cls(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return _at(states, mask.argmax(1))


def _max(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return states.masked_fill(mask.unsqueeze(-1) == 0, float("-inf")).max(1).values


def _mean(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    weights = mask.unsqueeze(-1).to(states.dtype)
    return (states * weights).sum(1) / weights.sum(1).clamp(min=1e-9)


def _mean_sqrt(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    weights = mask.unsqueeze(-1).to(states.dtype)
    return (states * weights).sum(1) / weights.sum(1).clamp(min=1e-9).sqrt()


def _weighted_mean(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The n-th token counts n times; padding stands on the right."""
    places = torch.arange(1, states.shape[1] + 1, device=states.device, dtype=states.dtype)
    weights = (mask.to(states.dtype) * places).unsqueeze(-1)
    return (states * weights).sum(1) / weights.sum(1).clamp(min=1e-9)


def _last(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    places = torch.arange(mask.shape[1], device=mask.device)
    return _at(states, (mask * places).argmax(1))


def _at(states: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """(B, H) of (B, T, H)."""
    return states.gather(1, places[:, None, None].expand(-1, 1, states.shape[-1]))[:, 0]


POOLINGS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "cls": _cls,
    "max": _max,
    "mean": _mean,
    "mean_sqrt_len_tokens": _mean_sqrt,
    "weightedmean": _weighted_mean,
    "lasttoken": _last,
}
"""Mode → (states (B, T, H), mask int (B, T)) to (B, H)."""


class Pooling(nn.Module):
    """modes: joined end to end.  include_prompt: False leaves the prompt's tokens out."""

    def __init__(self, modes: tuple[str, ...], *, include_prompt: bool = True) -> None:
        super().__init__()
        self.modes = modes
        self.include_prompt = include_prompt

    def forward(self, features: Features) -> None:
        mask = features["attention_mask"].long()
        if not self.include_prompt and "prompt_length" in features:
            places = torch.arange(mask.shape[1], device=mask.device)
            mask = mask * (places >= features["prompt_length"][:, None])
        states = features["token_embeddings"]
        features[SENTENCE] = torch.cat([POOLINGS[mode](states, mask) for mode in self.modes], -1)


class Dense(nn.Module):
    def __init__(self, config: dict[str, Any], name: str) -> None:
        super().__init__()
        into, out = config["in_features"], config["out_features"]
        self.linear = nn.Linear(into, out, bias=config.get("bias", True))
        self.activation = _activation(config.get("activation_function"), name)
        self.reads = config.get("module_input_name") or SENTENCE
        self.writes = config.get("module_output_name") or self.reads
        self.residual: nn.Module | None = None
        if config.get("use_residual"):
            self.residual = nn.Identity() if into == out else nn.Linear(into, out, bias=False)

    def forward(self, features: Features) -> None:
        states = features[self.reads]
        out = self.activation(self.linear(states))
        features[self.writes] = out if self.residual is None else out + self.residual(states)


class LayerNorm(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config["dimension"])

    def forward(self, features: Features) -> None:
        features[SENTENCE] = self.norm(features[SENTENCE])


class Normalize(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.reads = config.get("module_input_name") or SENTENCE
        self.writes = config.get("module_output_name") or self.reads

    def forward(self, features: Features) -> None:
        features[self.writes] = nn.functional.normalize(features[self.reads], dim=-1)


class Stack(nn.Module):
    """What stands behind the transformer, in order, in float32: (B, T, H) to vectors or scores."""

    def __init__(self, modules: list[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(modules)

    @property
    def pooling(self) -> Pooling:
        return next(part for part in self.parts if isinstance(part, Pooling))

    @property
    def outputs(self) -> int:
        """Numbers that the last dense layer writes; 0 without one."""
        sizes = [part.linear.out_features for part in self.parts if isinstance(part, Dense)]
        return sizes[-1] if sizes else 0

    def forward(
        self,
        states: torch.Tensor,
        mask: torch.Tensor,
        prompt_length: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """float32 (B, D): `scores` where a module writes them, else the sentence embedding.

        prompt_length: int (B,), tokens that belong to a prompt.
        """
        features = {"token_embeddings": states.float(), "attention_mask": mask}
        if prompt_length is not None:
            features["prompt_length"] = prompt_length
        for part in self.parts:
            part(features)
        return features.get("scores", features[SENTENCE])


def mean_stack() -> Stack:
    """What a folder without modules is read with."""
    return Stack([Pooling(("mean",))])


def unread_modules(source: Source) -> list[str]:
    """Kinds of modules in a folder that this module does not read."""
    known = {"Transformer", "Dropout", *_READERS}
    return [entry.kind for entry in modules_of(source) if entry.kind not in known]


def read_stack(source: Source) -> Stack | None:
    """The modules behind the transformer; None for a folder without a modules.json.

    ConfigError for a kind that is not read here and for settings that are not; DataError for
    weights that are damaged or missing.
    """
    entries = [e for e in modules_of(source) if e.kind not in ("Transformer", "Dropout")]
    if not entries:
        return None
    for entry in entries:
        if entry.kind not in _READERS:
            raise ConfigError(f"{source.name}: a {entry.kind} module is not read")
    parts = [_READERS[entry.kind](source, entry) for entry in entries]
    if not any(isinstance(part, Pooling) for part in parts):
        raise ConfigError(f"{source.name}: modules.json has no Pooling module")
    return Stack(parts).eval()


def _read_pooling(source: Source, entry: ModuleEntry) -> Pooling:
    return pooling_of(source, model_json(source, entry.file("config.json")))


def pooling_of(source: Source, config: dict[str, Any]) -> Pooling:
    """The pooling that a 1_Pooling/config.json says, of any version. ConfigError for no mode."""
    modes = config.get("pooling_mode")
    if modes is None:
        modes = [mode for key, mode in _OLD_MODES.items() if config.get(key)] or "mean"
    modes = (modes,) if isinstance(modes, str) else tuple(modes)
    unknown = [mode for mode in modes if mode not in POOLINGS]
    if unknown or not modes:
        raise ConfigError(f"{source.name}: no pooling {unknown}; known: {', '.join(POOLINGS)}")
    return Pooling(modes, include_prompt=bool(config.get("include_prompt", True)))


def _read_dense(source: Source, entry: ModuleEntry) -> Dense:
    config = _config(source, entry)
    return _with_weights(lambda: Dense(config, source.name), source, entry)


def _read_norm(source: Source, entry: ModuleEntry) -> LayerNorm:
    config = _config(source, entry)
    return _with_weights(lambda: LayerNorm(config), source, entry)


def _read_normalize(source: Source, entry: ModuleEntry) -> Normalize:
    return Normalize(model_json(source, entry.file("config.json")))


_READERS: dict[str, Callable[[Source, ModuleEntry], nn.Module]] = {
    "Pooling": _read_pooling,
    "Dense": _read_dense,
    "LayerNorm": _read_norm,
    "Normalize": _read_normalize,
}


def _config(source: Source, entry: ModuleEntry) -> dict[str, Any]:
    config = model_json(source, entry.file("config.json"))
    if not config:
        raise DataError.at(source.name, None, f"no {entry.file('config.json')}")
    return config


def _with_weights(build: Callable[[], Module], source: Source, entry: ModuleEntry) -> Module:
    """The module with its weights in float32, each of which must be there, in its shape."""
    file, pickle = entry.file("model.safetensors"), entry.file("pytorch_model.bin")
    path = model_file(source, file)
    if path is None:
        if model_file(source, pickle) is not None:
            raise pickled(source, pickle, missing=file)
        raise DataError.at(source.name, None, f"no {file}")
    with reading(source):
        with torch.device("meta"):  # settings may ask for any size
            module = build()
        stored = {key: value.float() for key, value in load_file(path).items()}
        module.load_state_dict(stored, assign=True)
    return module


def _activation(path: str | None, name: str) -> nn.Module:
    """Of torch alone: a class from elsewhere is code; sentence-transformers reads Tanh then."""
    if path is None:
        return nn.Tanh()
    package, _, kind = path.rpartition(".")
    if package.split(".")[0] == "torch":
        return make_activation(kind)
    warn(f"{name}: the activation {path} is no module of torch; Tanh is taken, the default")
    return nn.Tanh()
