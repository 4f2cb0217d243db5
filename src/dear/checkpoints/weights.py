"""Weights on disk: safetensors, whole, and of the shapes that their configuration says."""

from __future__ import annotations

from typing import Any

from dear.checkpoints.files import model_json, read_config
from dear.checkpoints.heads import is_head
from dear.checkpoints.registry import Source
from dear.errors import ConfigError, DataError


def require_safetensors(source: Source) -> None:
    """ConfigError for a folder whose weights are a pickle alone."""
    folder = source.folder
    if folder is None or source.gguf_file is not None or any(folder.glob("*.safetensors")):
        return
    found = sorted(path.name for path in folder.glob("pytorch_model*.bin"))
    if found:
        raise pickled(source, found[0], missing="safetensors")


def pickled(source: Source, name: str, *, missing: str) -> ConfigError:
    """The refusal of a file that can run code when it is opened, with the way out."""
    return ConfigError(
        f"{source.path}: no {missing}; {name} is a pickle, which DeAR does not open: convert it "
        "once, as docs/models.md says"
    )


def classifier_config(source: Source) -> Any | None:
    """The configuration of a sequence classifier, whose own head is kept; None for other models.

    ConfigError for several outputs, before gigabytes are read. DataError: no configuration.
    """
    if source.gguf_file is not None:
        return None
    config = read_config(source)
    if not any("SequenceClassification" in a for a in config.architectures or ()):
        return None
    require_one_output(source.name, config.num_labels)
    return config


def is_classifier(source: Source) -> bool:
    """True for a folder whose configuration names a sequence classifier."""
    return _is_a(source, "SequenceClassification")


def writes(source: Source) -> bool:
    """True for a language model that writes from left to right."""
    return source.gguf_file is not None or _is_a(source, "CausalLM") or _is_a(source, "LMHead")


def _is_a(source: Source, kind: str) -> bool:
    if source.gguf_file is not None:
        return False
    names = model_json(source, "config.json").get("architectures") or ()
    return any(kind in str(name) for name in names)


def require_no_code(source: Source) -> None:
    """ConfigError for a model whose code comes with its weights, where transformers has none.

    Without the code its weights would be read into another architecture, or into none.
    """
    if source.gguf_file is not None:
        return
    from transformers import CONFIG_MAPPING

    config = model_json(source, "config.json")
    own = config.get("auto_map")
    if not isinstance(own, dict) or not own:
        return
    kind = str(config.get("model_type", ""))
    if kind not in CONFIG_MAPPING:
        raise ConfigError(
            f"{source.name}: the model type {kind!r} is code that comes with the weights, which "
            "DeAR does not run, and transformers has none of its own for it"
        )


def require_one_output(name: str, outputs: int) -> None:
    if outputs != 1:
        raise ConfigError(f"{name}: {outputs} outputs, but a reranker has one")


def require_whole(source: Source, info: dict[str, Any]) -> None:
    """A checkpoint that lacks weights of its body, or has others, would score noise.

    info: what `from_pretrained` says of its loading. DataError names the first few weights.
    """
    odd = sorted(info.get("mismatched_keys") or ())
    if odd:
        key, stored, wanted = odd[0]
        raise DataError.at(
            source.path,
            None,
            f"{key} is {shape_of(stored)}, but {shape_of(wanted)} by config.json"
            + (f", and {len(odd) - 1} more weights differ" if len(odd) > 1 else ""),
        )
    missing = sorted(key for key in info["missing_keys"] if not is_head(key))
    if missing:
        coded = source.gguf_file is None and model_json(source, "config.json").get("auto_map")
        why = "; they belong to code of the repository's own, which DeAR does not run"
        raise DataError.at(
            source.path,
            None,
            f"the checkpoint lacks {len(missing)} weights: {', '.join(missing[:3])} …"
            + (why if coded else ""),
        )


def shape_of(shape: Any) -> str:
    """`400 x 32`."""
    return " x ".join(map(str, shape))
