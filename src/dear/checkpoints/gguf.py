"""GGUF files, dequantised once.

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

from dear.artifacts import cache_folder, read_json, unfinished, unfinished_in, write_json
from dear.checkpoints.files import reading
from dear.checkpoints.registry import Source
from dear.checkpoints.screening import Held, within
from dear.checkpoints.threads import LOADING
from dear.digests import file_digest, file_digests
from dear.errors import DataError, MissingExtra

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
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

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
