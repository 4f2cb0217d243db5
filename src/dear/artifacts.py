"""Files that are whole or not there at all."""

from __future__ import annotations

import contextlib
import errno
import importlib.metadata
import json
import os
import platform
import re
import secrets
import shutil
import stat
import tempfile
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from dear import locks
from dear.characters import from_file_name
from dear.errors import ConfigError, DataError, excerpt

FULL = (errno.ENOSPC, errno.EDQUOT)
"""How the system says that a disk or a user's share of it is full."""

LINE_MIB, EXPANSION = 64, 100
"""MiB of a line, or of a file that is read whole; how many times its size a file may unpack to."""

DEEPEST_TOML = 50
"""Tables and lists inside each other in a recipe, a plan or the options of a server."""

_LIMITS = {"line": ("DEAR_LINE_MIB", LINE_MIB, 20), "expansion": ("DEAR_EXPANSION", EXPANSION, 0)}
"""Limit → the variable that sets it, its default, and its unit as a power of two."""
_UNFINISHED = re.compile(r"\..+\.[0-9a-f]{12}\.dear\.tmp", re.DOTALL)
_SHARE_S = 1.0

_PACKAGES = ("dear-rerank", "torch", "transformers", "peft", "trl", "accelerate", "numpy")


NOT_UTF8 = "not UTF-8; if it is Latin-1: iconv -f latin1 -t utf-8 FILE > OTHER"


class NotUtf8(DataError):
    """A file whose text is in another encoding."""

    @property
    def place(self) -> str:
        """File and line."""
        return str(self).partition(": not UTF-8")[0]


def limit_of(name: Literal["line", "expansion"]) -> int:
    """What files may ask for, in bytes ("line") or times ("expansion"): as the environment
    (DEAR_LINE_MIB, DEAR_EXPANSION) or the options of the command line have it.

    ConfigError: a variable that is no whole number from 1 to 1,000,000.
    """
    variable, usual, unit = _LIMITS[name]
    said = os.environ.get(variable, str(usual))
    if not (said.isascii() and said.isdigit() and 1 <= int(said[:8]) <= 1_000_000):
        raise ConfigError(f"{variable}={excerpt(said)}: a whole number of 1 to 1,000,000 is needed")
    return int(said) << unit


def read_whole(path: Path | str) -> bytes:
    """The bytes of a file. DataError: it cannot be read, or is larger than `limit_of("line")`."""
    most = limit_of("line")
    try:
        with Path(path).open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise DataError.at(path, None, f"cannot be read: {error.strerror}") from error
    if len(data) > most:
        mib = most >> 20
        problem = f"larger than {mib} MiB; if it is meant to be: --line-mib {2 * mib}"
        raise DataError.at(path, None, problem)
    return data


def read_text(path: Path | str) -> str:
    """A whole UTF-8 file, a byte order mark dropped. DataError: as `read_whole`; NotUtf8."""
    try:
        return read_whole(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise NotUtf8.at(path, line, NOT_UTF8) from error


def read_toml(path: Path | str) -> dict[str, Any]:
    """The tables of a TOML file. DataError: as `read_text`, no TOML, or more than DEEPEST_TOML
    tables and lists inside each other."""
    text = read_text(path)
    try:
        values = tomllib.loads(text)
        if _is_deeper(values, DEEPEST_TOML):
            raise RecursionError
        return values
    except (ValueError, RecursionError) as error:  # a TOMLDecodeError is a ValueError
        raise DataError.at(path, None, f"not TOML: {broken(error)}") from None


def _is_deeper(value: object, most: int) -> bool:
    """Whether there are more than `most` tables and lists inside each other."""
    level = [value]
    for _ in range(most):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)  # type: ignore[attr-defined]
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True


def inside(folder: Path, name: str) -> Path:
    """The path `name`, as a file in `folder` has it, below that folder. DataError: one that leads
    out of it, by `..`, from the root or by a link, or to the folder itself."""
    path = folder / name
    try:
        below = path.resolve() if "\0" not in name else folder
        root = folder.resolve()
    except (OSError, RuntimeError):  # links that lead to each other
        below = root = folder
    if below == root or not below.is_relative_to(root):
        raise DataError.at(folder, None, f"names {excerpt(name)}, which is not inside this folder")
    return path


@contextlib.contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """A temporary sibling of `path` to write to; it takes the place of `path` on success.

    Missing parent folders are made. On success the bytes reach the disk (fsync) before the new
    name does. On any failure the temporary file is removed and an earlier `path` is untouched; that
    of a killed process goes when the next one writes into the folder (`unfinished_in`).
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
        with unfinished_in(real.parent):
            temporary = unfinished(real)
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


def unfinished(path: Path) -> Path:
    """A name beside `path` for what will take its place."""
    return path.with_name(f".{path.name[:40]}.{secrets.token_hex(6)}.dear.tmp")


@contextlib.contextmanager
def unfinished_in(folder: Path) -> Iterator[None]:
    """While something `unfinished` is written into `folder`.

    First, what killed processes left unfinished there is removed, unless another process, on any
    machine that shares the folder's locks, is writing into it: writers share a lock of the folder,
    and who has it alone may clean.
    """
    try:
        lock = os.open(folder, os.O_RDONLY)
    except OSError:  # it can be written, but not listed
        yield
        return
    try:
        with contextlib.suppress(OSError, DataError):
            for left in folder.iterdir() if locks.lock(lock) else ():
                if _UNFINISHED.fullmatch(left.name):
                    _remove(left)
        _share(lock)
        yield
    finally:
        os.close(lock)


@contextlib.contextmanager
def whole_files(folder: Path, last: str) -> Iterator[Path]:
    """A folder to write files into, which take their places in `folder` on success, each whole, the
    one named `last` after all others. On any failure `folder` is as it was.
    """
    with unfinished_in(folder):
        building = unfinished(folder / last)
        building.mkdir()
        try:
            yield building
            files = [path for path in building.rglob("*") if path.is_file()]
            for path in sorted(files, key=lambda path: path.name == last):
                file_to_disk(path)
                place = folder / path.relative_to(building)
                place.parent.mkdir(parents=True, exist_ok=True)
                os.replace(path, place)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    folder_to_disk(folder)


def check_output(path: Path) -> None:
    """DataError, before any work is done, where `path` could not be written at the end."""
    if path.is_dir():
        raise DataError.at(path, None, "is a folder, a file is to be written here")
    if path.exists() and not path.is_file():
        return
    check_folder(Path(os.path.realpath(path)).parent, path)


def check_folder(folder: Path, named: Path | None = None) -> None:
    """DataError where no file can be made in `folder`; missing folders are made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        place = error.filename or folder
        reason = (
            f"{place} is no folder"
            if isinstance(error, FileExistsError | NotADirectoryError)
            else error.strerror
        )
        raise DataError.at(named or folder, None, f"cannot be written: {reason}") from None


def check_empty_folder(folder: Path) -> None:
    """DataError where a folder that is to hold one thing alone holds something, or cannot be
    written; what a killed process left unfinished does not count."""
    check_folder(folder)
    if any(not _UNFINISHED.fullmatch(path.name) for path in folder.iterdir()):
        raise DataError.at(folder, None, "is not empty; --output names another folder")


def _share(lock: int) -> None:
    until = time.monotonic() + _SHARE_S
    while time.monotonic() < until:  # who has it alone is cleaning, which is soon done
        try:
            if locks.lock(lock, shared=True):
                return
        except DataError:
            return
        time.sleep(0.005)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


def is_full(error: BaseException | None) -> bool:
    """Whether a file could not be written because the disk, or a quota, is full."""
    if isinstance(error, DataError):
        error = error.__cause__
    return isinstance(error, OSError) and error.errno in FULL


def write_json(path: Path | str, obj: Mapping[str, Any]) -> None:
    """`obj` as indented UTF-8 JSON, atomically; names of files as `from_file_name` has them.

    DataError for NaN, infinity and lone surrogates that no file's name gives.
    """
    try:
        text = json.dumps(obj, ensure_ascii=False, indent=2, allow_nan=False) + "\n"
        data = from_file_name(text).encode("utf-8")
    except ValueError as error:  # UnicodeEncodeError is one
        raise DataError.at(path, None, f"cannot be written as JSON: {error}") from error
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def read_json(path: Path | str) -> dict[str, Any]:
    """The JSON object in `path`. DataError: missing, no regular file (a FIFO would hang), as
    `read_text`, broken, or no object."""
    try:
        mode = Path(path).stat().st_mode
    except OSError as error:
        raise DataError.at(path, None, f"cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise DataError.at(path, None, "is no regular file")
    text = read_text(path)
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError.at(
            path, error.lineno, f"broken JSON: {error.msg} (column {error.colno})"
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError.at(path, None, f"broken JSON: {broken(error)}") from error
    if not isinstance(value, dict):
        raise DataError.at(path, 1, f"expected a JSON object, got {type(value).__name__}")
    return value


def broken(error: ValueError | RecursionError) -> str:
    """What is wrong with a text that json or tomllib gave up."""
    if isinstance(error, RecursionError):
        return "values inside each other too deeply"
    if "integer string conversion" in str(error):
        return "a number of thousands of digits"
    return str(error)


def cache_folder(name: str) -> Path:
    """DEAR_CACHE/NAME, else ~/.cache/dear/NAME (XDG_CACHE_HOME moves it); it may be removed at any
    time."""
    if own := os.environ.get("DEAR_CACHE"):
        return Path(own).expanduser() / name
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "dear" / name


def versions(packages: Sequence[str] = _PACKAGES) -> dict[str, str]:
    """Versions of Python and of the packages that are installed; by default those that numbers
    depend on."""
    found = {"python": platform.python_version()}
    for package in packages:
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


def slug(name: str) -> str:
    """A file's name for a model's name."""
    last = Path(name).name if "/" in name else name
    return re.sub(r"[^A-Za-z0-9._-]+", "-", last).strip(".-") or "teacher"
