"""Weights on disk: safetensors, GGUF, and transformers' from_pretrained with our checks.

transformers needs some 20 seconds to read a small GGUF file; the safetensors that it makes of it
load in a tenth of a second, so they are kept, in `cache_folder("gguf")`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoTokenizer

from dear.artifacts import cache_folder, read_json, unfinished, unfinished_in, write_json
from dear.checkpoints.files import model_json, read_config, reading, weights_held
from dear.checkpoints.heads import is_head
from dear.checkpoints.registry import Source
from dear.checkpoints.screening import Held, within
from dear.checkpoints.threads import LOADING
from dear.digests import file_digest, file_digests
from dear.errors import ConfigError, DataError, MissingExtra


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


logger = logging.getLogger(__name__)

LARGEST_KEPT = 2**30
"""Bytes of the largest GGUF file that is kept dequantised: float32 takes five times its room."""

_MANIFEST = "dear_gguf.json"


def gguf_as_safetensors(source: Source) -> Source:
    """The same model as float32 safetensors with its tokenizer; a source that is no GGUF as it is.

    Made on the first call, and again when the kept files are damaged. Where it cannot be kept
    (size, a cache that cannot be written) the GGUF source itself comes back.
    """
    if source.gguf_file is None:
        return source
    if importlib.util.find_spec("gguf") is None:
        raise MissingExtra.of("gguf", "gguf")
    path = Path(source.path) / source.gguf_file
    if path.stat().st_size > LARGEST_KEPT:
        return source
    entry = cache_folder("gguf") / file_digest(path)[:32]
    if not _is_whole(entry):
        try:
            _convert(source, entry)
        except OSError as error:
            logger.warning("%s: cannot be kept dequantised in %s: %s", path, entry, error)
            return source
    return replace(source, path=str(entry), gguf_file=None, known_as=source.name)


def drop_quantization(model: Any) -> None:
    """Dequantised weights are plain tensors: let configuration and `save_pretrained` know."""
    if getattr(model.config, "quantization_config", None) is not None:
        del model.config.quantization_config
    model.hf_quantizer = None


def _is_whole(entry: Path) -> bool:
    try:
        files = read_json(entry / _MANIFEST).get("files")
        if not isinstance(files, dict):
            return False
        return file_digests([entry / name for name in files]) == list(files.values())
    except (DataError, OSError):
        return False


@LOADING
def _convert(source: Source, entry: Path) -> None:
    """Write beside `entry`, then rename: other processes see all of it or nothing."""
    # transformers shows a bar of its own here, whatever it is told
    with reading(source), contextlib.redirect_stderr(io.StringIO()):
        tokenizer = AutoTokenizer.from_pretrained(
            source.path, gguf_file=source.gguf_file, trust_remote_code=False
        )
        with within(str(source.file), Held.in_gguf(source.file)):
            model = AutoModelForCausalLM.from_pretrained(
                source.path,
                gguf_file=source.gguf_file,
                dtype=torch.float32,
                trust_remote_code=False,
            )
    drop_quantization(model)
    entry.parent.mkdir(parents=True, exist_ok=True)
    with unfinished_in(entry.parent):
        building = unfinished(entry)
        building.mkdir()
        try:
            with reading(source):
                model.save_pretrained(building)
                tokenizer.save_pretrained(building)
            for path in building.iterdir():
                with path.open("rb+") as file:
                    os.fsync(file.fileno())
            paths = sorted(building.iterdir())
            digests = dict(zip((p.name for p in paths), file_digests(paths), strict=True))
            write_json(building / _MANIFEST, {"gguf": source.gguf_file, "files": digests})
            if entry.exists() and not _is_whole(entry):
                shutil.rmtree(entry)
            if not entry.exists():
                building.rename(entry)
        finally:
            shutil.rmtree(building, ignore_errors=True)


@LOADING
def read_pretrained(auto: Any, source: Source, **options: Any) -> tuple[Any, dict[str, Any]]:
    """(a complete model of an auto class, what `from_pretrained` says of its loading)."""
    require_safetensors(source)
    with reading(source):
        held = weights_held(source) if source.gguf_file is None else Held.in_gguf(source.file)
        with within(source.path, held):
            model, info = _from_pretrained(
                auto,
                source.path,
                gguf_file=source.gguf_file,
                revision=source.revision,
                output_loading_info=True,
                # looked at below, where an error can name them
                ignore_mismatched_sizes=True,
                **({} if source.gguf_file else {"use_safetensors": True}),
                **options,
            )
    require_whole(source, info)
    # dequantised weights are plain, and an adapter trained on them names what the user named
    if source.gguf_file:
        drop_quantization(model)
    for config in (model.config, model.config.get_text_config()):
        # what a forward pass gives is ours to say, not the folder's
        config.return_dict, config.output_hidden_states = True, False
    model.name_or_path = model.config._name_or_path = source.name
    return model, info


def _from_pretrained(auto: Any, path: str, **options: Any) -> Any:
    """`auto.from_pretrained`, with eager attention for a model that has no other."""
    try:
        return auto.from_pretrained(path, trust_remote_code=False, **options)
    except ValueError as error:
        if "attn_implementation" not in str(error):
            raise
    options["attn_implementation"] = "eager"
    return auto.from_pretrained(path, trust_remote_code=False, **options)
