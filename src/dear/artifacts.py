"""Files that are whole or not there at all."""

from __future__ import annotations

import contextlib
import errno
import importlib.metadata
import json
import os
import platform
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dear.errors import DataError

FULL = (errno.ENOSPC, errno.EDQUOT)
"""How the system says that a disk or a user's share of it is full."""

MOST_JSON_BYTES = 256 * 2**20
"""Of a file that holds one JSON object and is read whole."""

_PACKAGES = ("dear-rerank", "torch", "transformers", "peft", "trl", "accelerate", "numpy")


@contextlib.contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """A temporary sibling of `path` to write to; it takes the place of `path` on success.

    Missing parent folders are made. On success the bytes reach the disk (fsync) before the new
    name does. On any failure the temporary file is removed and an earlier `path` is untouched.
    A `path` that exists and is no regular file (a pipe, /dev/null) is written in place, because
    a rename would replace the device itself.
    DataError: the disk is full, the place cannot be written, `path` is a folder.
    """
    target = Path(path)
    try:
        if target.is_dir():
            raise DataError.at(target, None, "is a folder, a file is to be written here")
        if target.exists() and not target.is_file():
            yield target
            return
        # through a link, so that the link stays one and the file behind it is replaced
        real = Path(os.path.realpath(target))
        real.parent.mkdir(parents=True, exist_ok=True)
        temporary = real.with_name(f".{real.name[:100]}.{secrets.token_hex(6)}.tmp")
        try:
            yield temporary
            file_to_disk(temporary)
            os.replace(temporary, real)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        folder_to_disk(real.parent)
    except OSError as error:
        raise DataError.at(target, None, _reason(error, target)) from error


def is_full(error: BaseException | None) -> bool:
    """Whether a file could not be written because the disk, or a quota, is full."""
    if isinstance(error, DataError):
        error = error.__cause__
    return isinstance(error, OSError) and error.errno in FULL


def write_json(path: Path | str, obj: Mapping[str, Any]) -> None:
    """`obj` as indented UTF-8 JSON, atomically. DataError for NaN, infinity and lone surrogates."""
    try:
        text = json.dumps(obj, ensure_ascii=False, indent=2, allow_nan=False) + "\n"
        data = text.encode("utf-8")
    except ValueError as error:  # UnicodeEncodeError is one
        raise DataError.at(path, None, f"cannot be written as JSON: {error}") from error
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def read_json(path: Path | str) -> dict[str, Any]:
    """The JSON object in `path`. DataError: missing, no regular file, over MOST_JSON_BYTES, not
    UTF-8, broken, or no object."""
    try:
        if (size := Path(path).stat().st_size) > MOST_JSON_BYTES:
            raise DataError.at(path, None, f"{size:,} bytes; at most {MOST_JSON_BYTES:,} are read")
        if not Path(path).is_file() and not Path(path).is_dir():
            raise DataError.at(path, None, "is no regular file")
        text = Path(path).read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError.at(path, None, f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise DataError.at(path, line, "not UTF-8") from error
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError.at(
            path, error.lineno, f"broken JSON: {error.msg} (column {error.colno})"
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError.at(path, None, f"broken JSON: {error}") from error
    if not isinstance(value, dict):
        raise DataError.at(path, 1, f"expected a JSON object, got {type(value).__name__}")
    return value


def cache_folder(name: str) -> Path:
    """DEAR_CACHE/NAME, else ~/.cache/dear/NAME (XDG_CACHE_HOME moves it); it may be removed at any
    time."""
    if own := os.environ.get("DEAR_CACHE"):
        return Path(own).expanduser() / name
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "dear" / name


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that numbers depend on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def file_to_disk(path: Path) -> None:
    """Wait until a file's bytes are on the disk (fsync); its name is its folder's affair."""
    with path.open("rb+") as stream:
        os.fsync(stream.fileno())


def folder_to_disk(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, where its file system can sync folders."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _reason(error: OSError, target: Path) -> str:
    if isinstance(error, FileExistsError | NotADirectoryError):
        return f"cannot be written: {error.filename or target.parent} is no folder"
    elsewhere = error.filename is not None and not str(error.filename).startswith(
        str(Path(os.path.realpath(target)).parent)
    )
    reason = str(error) if elsewhere or not error.strerror else error.strerror
    if error.errno in FULL and not elsewhere:
        reason = os.strerror(error.errno)  # other libraries put their own words around it
    with contextlib.suppress(OSError):
        if target.is_file():
            return f"cannot be written: {reason}; the earlier file is kept"
    return f"cannot be written: {reason}"
