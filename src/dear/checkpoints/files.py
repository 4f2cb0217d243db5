"""The files of a model, in a folder or in the hub's cache, and what goes wrong in reading them."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import sys
import threading
import warnings
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from dear.artifacts import read_json
from dear.checkpoints.registry import FAMILY, Source
from dear.checkpoints.screening import (
    INDEX,
    Held,
    json_list,
    require_bounded,
    require_near,
    require_plain,
    require_plain_folder,
)
from dear.digests import files_digest
from dear.errors import BackendError, DataError, DearError, shortened

TOKENIZER_PATTERNS = (
    "tokenizer*.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*.*",
    "merges.txt",
    "*.model",
    "*.tiktoken",
    "chat_template*",
)
"""Names of files that a tokenizer is made from."""

WEIGHT_PATTERNS = (
    "*.safetensors",
    "*.safetensors.index.json",
    "pytorch_model*.bin*",
    "adapter_model.bin",
    "openvino_model.bin",
    "config.json",
    "generation_config.json",
    "adapter_config.json",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "dear_heads.json",
)
"""Names of all other files that a model's scores depend on, but for its contract: tensors, and what
says how they are put together. The folders that modules.json names count with all their files."""

FORMER_REVISION = re.compile(r"local-[0-9a-f]{16}(?![0-9a-f])")
"""How earlier versions wrote a folder's revision, which was over samples of its files."""

_FORMER_SUFFIXES = (".safetensors", ".bin")
_SAMPLES, _SAMPLE_BYTES = 16, 65536


def model_file(source: Source, name: str) -> Path | None:
    """A file of a model by its name; None where there is none. DataError: `require_plain`."""
    folder = source.folder
    if folder is not None:
        path = folder / name
        require_plain(path)
        return path if path.is_file() else None
    from transformers.utils.hub import cached_file

    with quiet(), contextlib.suppress(OSError):
        found = cached_file(
            source.path,
            name,
            revision=source.revision,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
            _raise_exceptions_for_gated_repo=False,
        )
        if found:
            require_plain(Path(found))
            return Path(found)
    return None


TRAINING_FILE = "dear_training.json"
"""In the folder of a model that DeAR trained: its recipe, what it was made from, how it went."""


def model_json(source: Source, name: str) -> dict[str, Any]:
    """The object in a JSON file of a model; {} where there is no such file."""
    path = model_file(source, name)
    return {} if path is None else read_json(path)


def require_harmless(source: Source) -> None:
    """DataError or ConfigError for files that can hang who reads them, fill the memory, run code
    or lead to other files; see dear.checkpoints.screening."""
    if source in _screened:
        return
    if source.gguf_file is not None:
        require_plain(source.file)
        return
    if source.folder is not None:
        require_plain_folder(source.folder)
    for name, check in (("config.json", require_bounded), (INDEX, require_near)):
        path = model_file(source, name)
        if path is not None:
            check(path, read_json(path))
    if source.folder is None:
        _screened.add(source)


_screened: set[Source] = set()
"""Of the hub, where every question may be one to a server."""


def weights_held(source: Source) -> Held:
    """The safetensors of a model; those of the hub are fetched. SafetensorError: damaged."""
    folder = source.folder
    if folder is not None:
        return Held.by(path for path in folder.glob("*.safetensors") if path.is_file())
    index = model_file(source, INDEX)
    if index is not None and model_file(source, "model.safetensors") is None:
        from transformers.utils.hub import get_checkpoint_shard_files

        found, _ = get_checkpoint_shard_files(  # type: ignore[no-untyped-call]
            source.path, str(index), revision=source.revision
        )
        return Held.by(map(Path, found))
    whole = model_file(source, "model.safetensors")
    return Held.by([] if whole is None else [whole])


def revision_of(source: Source) -> str:
    """A hub commit, or `local-` and 32 digits over all that the folder's scores depend on: every
    tensor, the configuration, the tokenizer."""
    folder = source.folder
    if folder is None:
        path = model_file(source, "adapter_config.json") or model_file(source, "config.json")
        # …/snapshots/COMMIT/config.json
        return path.parent.name if path is not None else source.revision or "main"
    return f"local-{files_digest(weight_files(source) | tokenizer_files(source))}"


def weight_files(source: Source) -> dict[str, Path]:
    """Name → file of a folder's model, its tokenizer aside (a GGUF file holds both)."""
    folder = source.folder
    assert folder is not None
    if source.gguf_file:
        return {source.gguf_file: folder / source.gguf_file}
    found = _matching(folder, WEIGHT_PATTERNS)
    for module in _module_folders(folder):
        paths = [path for path in (folder / module).rglob("*") if path.is_file()]
        found |= {path.relative_to(folder).as_posix(): path for path in paths}
    return found


def tokenizer_files(source: Source) -> dict[str, Path]:
    """Name → file of a folder's tokenizer; a GGUF file holds it beside the weights."""
    folder = source.folder
    assert folder is not None
    if source.gguf_file:
        return {source.gguf_file: folder / source.gguf_file}
    return _matching(folder, TOKENIZER_PATTERNS)


def _matching(folder: Path, patterns: Iterable[str]) -> dict[str, Path]:
    return {
        path.name: path
        for path in folder.iterdir()
        if any(fnmatchcase(path.name, pattern) for pattern in patterns) and path.is_file()
    }


def _module_folders(folder: Path) -> list[str]:
    """Those that sentence-transformers' modules.json names; what is wrong in it is its reader's
    error."""
    try:
        path = folder / "modules.json"
        paths = [str(module["path"]) for module in (json_list(path) if path.is_file() else ())]
    except (DataError, TypeError, KeyError):
        return []
    inside = [path for path in paths if path and not Path(path).is_absolute()]
    return [path for path in inside if ".." not in Path(path).parts and (folder / path).is_dir()]


def former_revision_of(source: Source) -> str:
    """As earlier versions wrote it: over configuration and samples of the weights."""
    folder = source.folder
    if folder is None:
        return revision_of(source)
    if source.gguf_file:
        return f"local-{sampled_digest([folder / source.gguf_file])}"
    names = ("config.json", "adapter_config.json")
    return "local-" + sampled_digest(
        path for path in folder.iterdir() if path.suffix in _FORMER_SUFFIXES or path.name in names
    )


def sampled_digest(paths: Iterable[Path]) -> str:
    """What earlier versions took for a digest of files: name, size and 16 samples of 64 KiB."""
    digest = hashlib.sha256()
    for path in sorted(paths, key=lambda p: p.name):
        size = path.stat().st_size
        digest.update(f"{path.name}:{size};".encode())
        with path.open("rb") as file:
            for part in range(_SAMPLES):
                file.seek(size * part // _SAMPLES)
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:16]


@contextlib.contextmanager
def reading(source: Source) -> Iterator[None]:
    """Turns whatever transformers raises for broken or absent weights into one line.

    Before that, `require_harmless`.
    """
    require_harmless(source)
    try:
        with quiet():
            yield
    except DearError:
        raise
    except SafetensorError as error:
        raise DataError.at(source.path, None, f"the weights are damaged: {error}") from error
    except Exception as error:
        text = str(error).strip()
        first = shortened(text.splitlines()[0] if text else type(error).__name__)
        if source.folder is None and isinstance(error, OSError):
            raise BackendError(_not_on_hub(source, first)) from error
        raise BackendError(f"{source.path}: cannot load the model: {first}") from error


def read_config(source: Source) -> Any:
    """The transformers configuration of a model. DataError: there is none, or a damaged one;
    BackendError: none that transformers knows."""
    from transformers import AutoConfig

    folder = source.folder
    if folder is not None and not source.gguf_file and not model_json(source, "config.json"):
        raise DataError.at(folder, None, "no config.json: this is no model's folder")
    with reading(source):
        return AutoConfig.from_pretrained(
            source.path,
            gguf_file=source.gguf_file,
            revision=source.revision,
            trust_remote_code=False,
        )


def _not_on_hub(source: Source, reason: str) -> str:
    from huggingface_hub.constants import is_offline_mode

    where = f"{source.path}: no such folder here, and"
    shipped = "".join(
        f"; {m.install}" for m in FAMILY.values() if m.hub == source.path and m.install
    )
    if is_offline_mode():
        return (
            f"{where} not in the hub's cache (HF_HUB_OFFLINE=1); unset it to fetch the model, or "
            f"name a folder{shipped}"
        )
    return f"{where} the hub does not give it{shipped}: {reason}"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No load reports, bars and warnings of other libraries: our own checks say what matters; and
    no questions: standard input is empty.

    That is silence for the whole process: the first of several threads begins it, the last ends it.
    """
    _silence.begin()
    try:
        yield
    finally:
        _silence.end()


class _Silence:
    def __init__(self) -> None:
        self._guard, self._blocks = threading.Lock(), 0
        self._before = contextlib.ExitStack()

    def begin(self) -> None:
        with self._guard:
            self._blocks += 1
            if self._blocks == 1:
                self._before.enter_context(_silenced())

    def end(self) -> None:
        with self._guard:
            self._blocks -= 1
            if not self._blocks:
                self._before.close()


_silence = _Silence()


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    from transformers.utils import logging as hf_logging

    level = hf_logging.get_verbosity()
    bars = hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity(logging.ERROR)
    hf_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    asked = sys.stdin
    try:
        with warnings.catch_warnings(), open(os.devnull, encoding="utf-8") as sys.stdin:
            warnings.simplefilter("ignore")
            yield
    finally:
        sys.stdin = asked
        hf_logging.set_verbosity(level)
        if bars:
            hf_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.txt",
    "vocab.json",
)
"""One of these is in every folder that holds a tokenizer."""


def has_tokenizer(source: Source) -> bool:
    return any(model_file(source, name) is not None for name in TOKENIZER_FILES)
