"""What a model's folder may hold, looked at before a library reads it: folders come from strangers.

`files.reading` asks all of it of every model that transformers, peft or sentence-transformers is
about to open, and `within` keeps what they build in proportion to the weights that are there.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dear.errors import ConfigError, DataError

MOST_JSON_BYTES = 16 * 2**20
"""Of a configuration or a contract; the largest known ones have some hundred KiB."""

MOST_TEXT_BYTES = 256 * 2**20
"""Of an index, a vocabulary or another file that is read whole; the largest known tokenizer has
40 MiB."""

MOST_LAYERS = 1_000
MOST_COUNTED = 100_000
"""Of layers, and of whatever else a configuration counts (experts, labels): Python builds a list
of each before a weight is looked at."""

MOST_RANK = 65_536
"""Of LoRA: the widest layers of the largest models are as wide."""

ROOM = 256 * 2**20
TIMES = 16
"""A model may ask for TIMES the bytes of its weights (float32 of 2 bits), and for ROOM besides."""

MODULES = 10_000
MODULES_A_TENSOR = 20
"""Modules that may be built for a stored tensor, and besides."""

SMALL_JSON = (
    "config.json",
    "generation_config.json",
    "adapter_config.json",
    "modules.json",
    "config_sentence_transformers.json",
    "scoring_contract.json",
    "listwise_contract.json",
    "dear_heads.json",
)
INDEX = "model.safetensors.index.json"
_READ_WHOLE = (".json", "vocab.txt", "merges.txt", ".model", ".jinja", ".tiktoken", "README.md")
_LAYERS = re.compile(r"layers?$|blocks?$|depth$")
_COUNTED = re.compile(r"(^|_)(num|n)_|layer|expert|label|block|depth|stage|codebook|group")


def require_plain_folder(folder: Path) -> None:
    """`require_plain` of all files in a model's folder."""
    for path in (*folder.iterdir(), *folder.glob("additional_chat_templates/*")):
        require_plain(path, folder)


def require_plain(path: Path, folder: Path | None = None) -> None:
    """DataError unless a model's file is a regular one, of a size that can be read whole where it
    is, and lies in its folder, or is linked from there into the hub's cache."""
    if path.is_dir() or not path.exists():
        return
    if not path.is_file():
        raise DataError.at(path, None, "is no regular file, and a model is made of such")
    if not path.name.endswith(_READ_WHOLE):
        return
    if path.is_symlink() and not _stays(folder or path.parent, path):
        raise DataError.at(
            path, None, f"is a link out of its folder, to {path.resolve()}; copy the file there"
        )
    most = MOST_JSON_BYTES if path.name in SMALL_JSON else MOST_TEXT_BYTES
    size = path.stat().st_size
    if size > most:
        raise DataError.at(path, None, f"{size:,} bytes; at most {most:,} are read of such a file")


def _stays(folder: Path, link: Path) -> bool:
    """Whether a link ends in its folder, or among the blobs of the hub's cache that it is in."""
    target, own = link.resolve(), folder.resolve()
    snapshots = next((part for part in (own, *own.parents) if part.name == "snapshots"), None)
    return target.is_relative_to(own) or (
        snapshots is not None and target.is_relative_to(snapshots.parent / "blobs")
    )


def require_bounded(path: Path, config: Mapping[str, Any]) -> None:
    """DataError for a count in a configuration that no model has, ConfigError for an attention
    that is fetched from the hub as code."""
    for key, value in _entries(config):
        if type(value) is int and _COUNTED.search(key):
            most = MOST_LAYERS if _LAYERS.search(key) else MOST_COUNTED
            if value > most:
                raise DataError.at(path, None, f"{key} is {value}; at most {most} are built")
        if key.strip("_").startswith(("attn_impl", "experts_impl")):
            for name in value.values() if isinstance(value, dict) else [value]:
                require_own_attention(path, key, name)
        if key in ("use_kernels", "kernel_config") and value:
            raise ConfigError(
                f"{path}: {key}: kernels are code of the hub, which DeAR does not run"
            )


def require_own_attention(path: Path, key: str, name: object) -> None:
    if isinstance(name, str) and "/" in name:
        raise ConfigError(
            f"{path}: {key} {name!r} is code of the hub, which DeAR does not run; remove the key"
        )


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    """(key, value) of an object and of all objects in it."""
    stack = [value]
    while stack:
        one = stack.pop()
        if isinstance(one, Mapping):
            yield from ((str(key), inner) for key, inner in one.items())
            stack += one.values()
        elif isinstance(one, list):
            stack += one


def require_near(path: Path, index: Mapping[str, Any]) -> None:
    """DataError for an index whose shards are not named as files beside it."""
    shards = index.get("weight_map", {})
    if not isinstance(shards, dict):
        raise DataError.at(path, None, "weight_map is no JSON object")
    for name in shards.values():
        if not isinstance(name, str) or Path(name).name != name or "\\" in name:
            raise DataError.at(path, None, f"the shard {str(name)[:80]!r} is no file beside it")


def require_rank(path: Path, adapter: Mapping[str, Any], largest: int) -> None:
    """DataError for a LoRA rank beyond the largest side of the adapter's own weights."""
    patterns = adapter.get("rank_pattern") or {}
    ranks = [adapter.get("r"), *(patterns.values() if isinstance(patterns, dict) else [patterns])]
    for rank in ranks:
        if type(rank) is not int or not 1 <= rank <= min(largest, MOST_RANK):
            raise DataError.at(path, None, f"the rank {rank!r} is not that of its weights")


@dataclass(frozen=True, slots=True)
class Held:
    """bytes: of a model's weights on this machine.  tensors: that they hold."""

    bytes: int
    tensors: int

    @classmethod
    def by(cls, paths: Iterable[Path]) -> Held:
        """By files of safetensors; SafetensorError for a header that does not fit its file."""
        from safetensors import safe_open

        size = tensors = 0
        for path in paths:
            size += path.stat().st_size
            with safe_open(path, framework="pt") as file:
                tensors += len(file.keys())
        return cls(size, tensors)

    @classmethod
    def in_gguf(cls, path: Path) -> Held:
        """By a GGUF file; each of its tensors has an entry of 40 bytes and more."""
        size = path.stat().st_size
        return cls(size, min(size // 40, MODULES))


@contextlib.contextmanager
def within(name: str, held: Held | None) -> Iterator[None]:
    """DataError as soon as the modules that are built inside ask for more than weights can fill:
    TIMES their bytes and ROOM, MODULES_A_TENSOR and MODULES.

    Models are built on the meta device first, where a tensor costs nothing; those are counted.
    held: None for a model without weights; then modules are counted alone.
    """
    from torch.nn.modules import module

    thread = threading.get_ident()
    most = math.inf if held is None else TIMES * held.bytes + ROOM
    parts = MODULES * 10 if held is None else MODULES_A_TENSOR * held.tensors + MODULES
    asked = modules = 0

    def count(_owner: Any, key: str, tensor: Any) -> None:
        nonlocal asked
        if tensor is None or not tensor.is_meta or threading.get_ident() != thread:
            return
        asked += tensor.numel() * tensor.element_size()
        if held is not None and asked > most:
            shape = " x ".join(map(str, tensor.shape))
            raise DataError.at(
                name,
                None,
                f"its configuration asks for more than {most:,} bytes (one {key} is {shape}), "
                f"but its weights are {held.bytes:,}",
            )

    def count_modules(_owner: Any, _key: str, _module: Any) -> None:
        nonlocal modules
        modules += threading.get_ident() == thread
        if modules > parts:
            raise DataError.at(name, None, f"its configuration asks for over {parts:,} modules")

    hooks = [
        module.register_module_parameter_registration_hook(count),
        module.register_module_buffer_registration_hook(count),
        module.register_module_module_registration_hook(count_modules),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def json_list(path: Path) -> list[Any]:
    """The JSON array in a small file of a model. DataError: too large, broken, or no array."""
    require_plain(path)
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError.at(path, None, f"not JSON: {error}") from None
    if not isinstance(value, list):
        raise DataError.at(path, None, "not a list of JSON objects")
    return value
