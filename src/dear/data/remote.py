"""Files at URLs, through fsspec: object stores such as S3, and whatever else it has a package for.

What is read is copied into the cache first, and read from there as any file of this machine.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dear import locks
from dear.artifacts import cache_folder, inside, read_json, whole_files, write_json
from dear.digests import text_digest
from dear.errors import ConfigError, DataError, DearError, MissingExtra, nearest
from dear.notices import say

AT_ONCE = 16
"""Files that are copied at the same time."""

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_BATCH_FILES, _BATCH_BYTES = 256, 64 << 20
_S3 = ("s3", "s3a")
_OBJECT_STORES = (*_S3, "gs", "gcs", "az", "abfs", "abfss")
"""Here a file is there once all of it is; elsewhere it gets its name then."""
_MARKS = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified", "updated", "created")
"""By which file systems say that a file has changed."""


def is_url(text: str | Path) -> bool:
    return _URL.match(str(text)) is not None


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """path: as its file system has it.  size: in bytes, where that is known.
    mark: another one where the file is another; "" where nothing can be compared."""

    path: str
    size: int | None
    mark: str
    etag: str

    @classmethod
    def of(cls, path: str, info: Mapping[str, Any]) -> RemoteFile:
        size = info.get("size")
        marks = [f"{key}={info[key]}" for key in _MARKS if info.get(key)]
        mark = " ".join([f"size={size}", *marks]) if marks else ""
        return cls(path, size, mark, str(info.get("ETag", "")).strip('"'))


class Remote:
    """What is at a URL. ConfigError: no such protocol. MissingExtra: its package is missing."""

    def __init__(self, url: str) -> None:
        self.url = re.sub(r"//[^/@]*@", "//", url.rstrip("/"))  # without a password
        with self.reached():
            self._system, root = _open(url)
        self.root = root.rstrip("/")
        if not self.root:
            raise ConfigError(f"{url}: names no file and no folder")
        self.name = self.root.rpartition("/")[2]

    @contextlib.contextmanager
    def reached(self, name: str = "") -> Iterator[None]:
        """What networks, servers and their libraries raise is one line that names the URL; that a
        file is there already stays a FileExistsError."""
        where = f"{self.url}/{name}" if name else self.url
        try:
            yield
        except (DearError, FileExistsError):
            raise
        except FileNotFoundError as error:
            raise DataError(f"{where}: not there ({_first_line(error)})") from error
        except PermissionError as error:
            raise DataError(f"{where}: not allowed ({_first_line(error)})") from error
        except ImportError as error:
            raise MissingExtra(f"{where}: {_first_line(error)}") from error
        except Exception as error:  # of a library for each protocol, without a common root
            raise DataError(f"{where}: {_first_line(error)}") from error

    def files(self) -> dict[str, RemoteFile]:
        """Name below the URL → file; its own name where the URL is that of a file."""
        with self.reached():
            self._system.invalidate_cache()
            found = self._system.find(self.root, detail=True)
        return {
            path[len(self.root) :].strip("/") or self.name: RemoteFile.of(path, info)
            for path, info in found.items()
            if info["type"] == "file" and not path.endswith("/")
        }

    def read(self, name: str) -> bytes | None:
        """A small file; None where it is not there."""
        with self.reached(name):
            try:
                return bytes(self._system.cat_file(f"{self.root}/{name}"))
            except FileNotFoundError:
                return None

    def get(self, files: Mapping[str, RemoteFile], folder: Path) -> Iterator[list[str]]:
        """Copy files into a folder, each whole: the names of some that are there, again and again.

        DataError: one cannot be read, changes meanwhile, or has a name that leads elsewhere.
        """

        def get_one(building: Path, name: str) -> None:
            target, file = inside(building, name), files[name]
            target.parent.mkdir(parents=True, exist_ok=True)
            with self.reached(name):
                self._system.get_file(file.path, str(target))
            if file.size not in (None, target.stat().st_size):
                raise DataError(f"{self.url}/{name}: changed while it was copied")

        folder.mkdir(parents=True, exist_ok=True)
        for names in _batches(files):
            last = Path(names[-1]).name
            with whole_files(folder, last) as building, ThreadPoolExecutor(AT_ONCE) as pool:
                list(pool.map(partial(get_one, building), names))
            yield names

    def put(self, name: str, source: Path, *, new: bool = False) -> None:
        """Copy a file here, whole. new: FileExistsError where it is here already."""
        path, system = f"{self.root}/{name}", self._system
        with self.reached(name):
            if new and _is(system, _S3):
                try:
                    system.put_file(str(source), path, mode="create")
                    return
                except OSError as error:
                    if error.errno != errno.ENOSYS:  # a server that knows no conditions
                        raise
            if new and system.exists(path):
                raise FileExistsError(path)
            if _is(system, _OBJECT_STORES):
                system.put_file(str(source), path)
                return
            system.makedirs(self.root, exist_ok=True)
            unfinished = f"{self.root}/.{name}.{secrets.token_hex(6)}.tmp"
            system.put_file(str(source), unfinished)
            system.mv(unfinished, path)


def fetched(url: str, keep: Callable[[str], bool] = lambda name: True) -> Path:
    """The file or the folder at a URL as a copy on this machine, under the URL's last name.

    keep: whether a file, by its name below the URL, is wanted. Files that have not changed since
    they were last copied are not copied again, those that are gone are removed.
    DataError: nothing there, not to be reached, not allowed.
    """
    remote = Remote(url)
    base = cache_folder("remote") / text_digest(url.rstrip("/"))
    base.mkdir(parents=True, exist_ok=True)
    place = inside(base / "copy", remote.name)
    with (base / "lock").open("w") as lock:
        locks.lock(lock.fileno(), wait=True)
        there = remote.files()
        if not there:
            raise DataError(f"{remote.url}: nothing is there")
        is_file = [file.path for file in there.values()] == [remote.root]
        folder = place.parent if is_file else place
        _level(remote, {n: f for n, f in there.items() if is_file or keep(n)}, folder, base)
        for path in [] if is_file else list(folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            if path.is_file() and keep(name) and name not in there:
                path.unlink()
    return place


def _level(remote: Remote, wanted: Mapping[str, RemoteFile], folder: Path, base: Path) -> None:
    """Copy what is not in the folder as it is there now. Which version is here is written down
    batch by batch, so that a killed copy goes on."""
    notes = base / "copied.json"
    marks = read_json(notes) if notes.exists() else {}
    lacking = {
        name: file
        for name, file in wanted.items()
        if not file.mark or marks.get(name) != file.mark or not _is_whole(folder / name, file)
    }
    if not lacking:
        folder.mkdir(parents=True, exist_ok=True)
        return
    mib = sum(file.size or 0 for file in lacking.values()) / 2**20
    say(f"{remote.url}: {len(lacking):,} of {len(wanted):,} files copied ({mib:,.1f} MiB)")
    for names in remote.get(lacking, folder):
        marks |= {name: lacking[name].mark for name in names}
        write_json(notes, marks)


def _is_whole(path: Path, file: RemoteFile) -> bool:
    return path.is_file() and file.size in (None, path.stat().st_size)


@contextlib.contextmanager
def called(url: str | Path, copy: Path) -> Iterator[None]:
    """Errors name the URL in place of its copy."""
    try:
        yield
    except DearError as error:
        raise type(error)(str(error).replace(str(copy), str(url))) from error


def _open(url: str) -> tuple[Any, str]:
    """(file system, path in it)."""
    try:
        import fsspec
        from fsspec.core import url_to_fs
    except ImportError:
        raise MissingExtra.of("fsspec", "s3") from None
    protocol = url.partition("://")[0].lower()
    if protocol not in fsspec.available_protocols():
        hint = nearest(protocol, ("s3", "gs", "abfs", "file", "https", "hf", "sftp", "hdfs"))
        raise ConfigError(f"no protocol {protocol!r} for URLs{hint}")
    options: dict[str, Any] = {}
    if protocol in _S3:
        try:
            import s3fs  # noqa: F401
        except ImportError:
            raise MissingExtra.of("s3fs", "s3") from None
        own = fsspec.config.conf.get("s3", {})
        if "config_kwargs" not in own and "AWS_MAX_ATTEMPTS" not in os.environ:
            # as botocore does it, ten seconds pass where nobody listens
            options["config_kwargs"] = {"retries": {"total_max_attempts": 3, "mode": "standard"}}
    system, path = url_to_fs(url, **options)
    return system, str(path)


def _is(system: Any, protocols: tuple[str, ...]) -> bool:
    own = system.protocol
    return not set(protocols).isdisjoint([own] if isinstance(own, str) else own)


def _batches(files: Mapping[str, RemoteFile]) -> Iterator[list[str]]:
    batch, size = list[str](), 0
    for name, file in files.items():
        batch.append(name)
        size += file.size or _BATCH_BYTES
        if len(batch) == _BATCH_FILES or size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
