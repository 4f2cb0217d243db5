"""What a LoRA adapter's folder says: the base that it sits on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dear.checkpoints.files import model_file, model_json
from dear.checkpoints.registry import Source, family_of, locate
from dear.errors import ConfigError, DataError

CONFIG = "adapter_config.json"


def adapter_config(source: Source) -> dict[str, Any] | None:
    """What a folder says of the adapter in it; None for other models.

    DataError: it does not say on what the adapter sits.
    """
    if source.gguf_file is not None:
        return None
    path = model_file(source, CONFIG)
    if path is None:
        return None
    config = model_json(source, CONFIG)
    if not config.get("base_model_name_or_path"):
        raise DataError.at(path, None, "names no base_model_name_or_path")
    return config


def base_of(source: Source, adapter: dict[str, Any]) -> Source:
    """Where the weights are that an adapter sits on. ConfigError: nowhere, or on itself."""
    base = _named_base(source, adapter)
    below, seen = base, {source.path}
    while (own := adapter_config(below)) is not None:
        if below.path in seen:
            raise ConfigError(f"{source.name}: the adapter sits on itself, by way of {below.name}")
        seen.add(below.path)
        below = _named_base(below, own)
    return base


def _named_base(source: Source, adapter: dict[str, Any]) -> Source:
    try:
        return locate(base_name(source, adapter))
    except ConfigError as error:
        raise ConfigError(f"{source.name}: the adapter's base: {error}") from None


def base_name(source: Source, adapter: dict[str, Any]) -> str:
    """What the adapter names as its base; of a published one, what is known of it where that is a
    path on somebody else's disk."""
    named, known = str(adapter["base_model_name_or_path"]), family_of(source)
    elsewhere = Path(named).is_absolute() and not Path(named).exists()
    return known.base if elsewhere and known is not None and known.base else named
