"""Public models whose weights are on this machine, by name; nothing is fetched and none is loaded.

Looked for below DEAR_MODELS and in the hub's cache, as `registry.locate` does; the weights have to
be whole: safetensors, all shards of an index, an adapter's base.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from dear.artifacts import read_json
from dear.checkpoints.registry import (
    FAMILY,
    KNOWN_EMBEDDERS,
    KNOWN_RERANKERS,
    Place,
    locate,
    place_of,
)
from dear.checkpoints.screening import INDEX, require_near, require_plain
from dear.errors import DearError

Kind = Literal["reranker", "embedder"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PresentModel:
    """name: a name of FAMILY or a hub id.  parameters: stored ones, an adapter's base included."""

    name: str
    kind: Kind
    place: Place
    parameters: int

    @property
    def spec(self) -> str:
        """As `--model` takes it."""
        return self.name if self.kind == "reranker" else f"biencoder:{self.name}"


def public_models() -> list[PresentModel]:
    """Those of KNOWN_RERANKERS and KNOWN_EMBEDDERS, the strongest first: see `strength`."""
    found: dict[str, PresentModel] = {}
    for name in (*_copied(), *_cached()):
        known = _known(name)
        if known is not None and known[0] not in found:
            name, kind = known
            model = _present(name, kind)
            if model is not None:
                found[name] = model
    return sorted(found.values(), key=strength)


def present_models() -> list[PresentModel]:
    """`public_models`, and FAMILY's pointwise rerankers, the strongest first."""
    own = (_present(m.name, "reranker") for m in FAMILY.values() if m.kind == "pointwise")
    return sorted([*public_models(), *(m for m in own if m is not None)], key=strength)


def strength(model: PresentModel) -> tuple[bool, int, str]:
    """Order of what is likely the better teacher: rerankers first, then by size."""
    return model.kind != "reranker", -model.parameters, model.name


def _copied() -> Iterator[str]:
    """Names below DEAR_MODELS: of its folders, with and without their owner's."""
    root = os.environ.get("DEAR_MODELS")
    for path in _folders(Path(root).expanduser()) if root else ():
        yield path.name
        yield from (f"{path.name}/{inner.name}" for inner in _folders(path))


def _folders(path: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        return sorted(inner for inner in path.iterdir() if inner.is_dir())
    return []


def _cached() -> Iterator[str]:
    from huggingface_hub import constants

    for path in sorted(Path(constants.HF_HUB_CACHE).glob("models--*--*")):
        yield path.name.removeprefix("models--").replace("--", "/", 1)


def _known(name: str) -> tuple[str, Kind] | None:
    """(hub id, kind) of a hub id, or of a folder's name without its owner.

    A pattern for all of an owner's models does not say that this one ranks passages.
    """
    kinds: tuple[tuple[Kind, list[str]], ...] = (
        ("reranker", [n for known in KNOWN_RERANKERS for n in known.names]),
        ("embedder", [n for known in KNOWN_EMBEDDERS for n in known.names]),
    )
    for kind, patterns in kinds:
        for pattern in patterns:
            owner, _, last = pattern.rpartition("/")
            hub = name if "/" in name or owner == "*" else f"{owner}/{name}"
            if last != "*" and "/" in hub and fnmatchcase(hub, pattern):
                return hub, kind
    return None


def _present(name: str, kind: Kind) -> PresentModel | None:
    from safetensors import SafetensorError

    known = FAMILY.get(name)
    with contextlib.suppress(DearError, SafetensorError, OSError):
        place, parameters = place_of(name), _parameters(name)
        if known is not None and known.form == "LoRA":
            base = _parameters(known.base)
            parameters = parameters and base and parameters + base
        if place is not None and parameters:
            return PresentModel(name=name, kind=kind, place=place, parameters=parameters)
    return None


def _parameters(name: str) -> int:
    """By the headers of its safetensors; 0 where they are not whole."""
    from safetensors import safe_open

    total = 0
    for path in _weights(name):
        if not path.is_file():
            return 0
        with safe_open(path, framework="np") as file:
            shapes = (file.get_slice(key).get_shape() for key in list(file.keys()))
            total += sum(map(math.prod, shapes))
    return total


def _weights(name: str) -> list[Path]:
    folder = _folder(name)
    if folder is None:
        return []
    index = folder / INDEX
    for one in ("model.safetensors", "adapter_model.safetensors"):
        if (folder / one).is_file():
            return [folder / one]
    if not index.is_file():
        return []
    require_plain(index)
    shards = read_json(index)
    require_near(index, shards)
    return [folder / shard for shard in sorted(set(shards.get("weight_map", {}).values()))]


def _folder(name: str) -> Path | None:
    """Of a model on this machine; in the hub's cache, that of the newest commit it knows."""
    from huggingface_hub import try_to_load_from_cache

    source = locate(name)
    if source.folder is not None:
        return source.folder
    for config in ("config.json", "adapter_config.json"):
        path = try_to_load_from_cache(source.path, config)
        if isinstance(path, str):
            return Path(path).parent
    return None
