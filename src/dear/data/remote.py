"""Files in object storage at s3://BUCKET/FOLDER, on Amazon's servers or any that speak S3.

What is read is copied into the cache first, and read from there as any file of this machine. Whose
keys are used and which server is asked is boto's affair: AWS_PROFILE, AWS_ENDPOINT_URL, a role.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dear import locks
from dear.artifacts import cache_folder, inside, read_json, whole_files, write_json
from dear.digests import text_digest
from dear.errors import ConfigError, DataError, DearError, MissingExtra
from dear.notices import say

AT_ONCE = 64
"""Files that are copied at the same time, and at the end of which a killed copy goes on."""

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def is_url(text: str | Path) -> bool:
    return _URL.match(str(text)) is not None


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """size: in bytes.  etag: another one where the content is another, its MD5 as a rule."""

    size: int
    etag: str


class Remote:
    """What is below a URL. ConfigError: none of S3. MissingExtra: no s3fs.

    root: the bucket and what is behind it.
    All that networks and servers raise is a DataError of one line that names the URL.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        protocol, _, self.root = self.url.partition("://")
        if protocol != "s3" or not self.root:
            raise ConfigError(f"{url}: s3://BUCKET/FOLDER is needed")
        try:
            from s3fs import S3FileSystem
        except ImportError:
            raise MissingExtra.of("s3fs", "s3") from None
        with self.reached():
            # one request for each file: no HEAD before it, no parts of different versions
            self._system: Any = S3FileSystem(use_listings_cache=False, max_concurrency=1)

    @contextlib.contextmanager
    def reached(self, name: str = "") -> Iterator[None]:
        where = f"{self.url}/{name}" if name else self.url
        try:
            yield
        except (DearError, FileExistsError):
            raise
        except Exception as error:  # of boto's and aiohttp's, without a common root
            line = str(error).partition("\n")[0] or type(error).__name__
            raise DataError(f"{where}: {line}") from error

    def files(self) -> dict[str, RemoteFile]:
        """Name below the URL → file; "" is the name of the one that the URL itself names."""
        with self.reached():
            found = self._system.find(self.root, detail=True)
        return {
            path[len(self.root) + 1 :]: RemoteFile(info["size"], info["ETag"].strip('"'))
            for path, info in found.items()
            if not path.endswith("/")
        }

    def read(self, name: str) -> bytes | None:
        """A small file; None where it is not there."""
        with self.reached(name):
            try:
                return bytes(self._system.cat_file(f"{self.root}/{name}"))
            except FileNotFoundError:
                return None

    def get(self, names: Sequence[str], folder: Path) -> Iterator[Sequence[str]]:
        """Copy files into a folder, each whole: the names of some that are there, again and again.

        DataError: one cannot be read, or has a name that leads elsewhere.
        """
        folder.mkdir(parents=True, exist_ok=True)
        for some in (names[i : i + AT_ONCE] for i in range(0, len(names), AT_ONCE)):
            with self.reached(), whole_files(folder, Path(some[-1]).name) as building:
                targets = [str(inside(building, name)) for name in some]
                self._system.get([f"{self.root}/{name}" for name in some], targets)
            yield some

    def put(self, name: str, data: bytes, *, new: bool = False) -> None:
        """A file, whole. new: FileExistsError where it is there already."""
        with self.reached(name):
            mode = "create" if new else "overwrite"
            self._system.pipe_file(f"{self.root}/{name}", data, mode=mode)

    def remove(self, name: str) -> None:
        """A file, if it is there."""
        with self.reached(name):
            self._system.rm_file(f"{self.root}/{name}")


def fetched(url: str, keep: Callable[[str], bool] = lambda name: True) -> Path:
    """The file or the folder at a URL as a copy on this machine, whose path ends as the URL does.

    keep: whether a file, by its name below the URL, is wanted. Files that are as they were when
    they were last copied are not copied again, those that are gone are removed.
    DataError: nothing there, not to be reached, not allowed.
    """
    remote = Remote(url)
    base = cache_folder("remote") / text_digest(remote.url)
    base.mkdir(parents=True, exist_ok=True)
    with (base / ".lock").open("w") as lock:
        locks.lock(lock.fileno(), wait=True)
        there = {name: file for name, file in remote.files().items() if not name or keep(name)}
        if not there:
            raise DataError(f"{remote.url}: nothing to be read is there")
        place = inside(base, remote.root)
        if "" in there:
            parent, _, name = remote.url.rpartition("/")
            _level(Remote(parent), {name: there[""]}, base, place.parent)
        else:
            _level(remote, there, base, place)
    return place


def _level(remote: Remote, there: dict[str, RemoteFile], base: Path, folder: Path) -> None:
    """The folder's files as they are there. Which version is here is written down again and again,
    so that a killed copy goes on."""
    notes = base / ".copied.json"
    etags = read_json(notes) if notes.exists() else {}
    lacking = [n for n, f in there.items() if etags.get(n) != f.etag or not (folder / n).is_file()]
    if lacking:
        mib = sum(there[name].size for name in lacking) / 2**20
        say(f"{remote.url}: {len(lacking):,} of {len(there):,} files copied ({mib:,.1f} MiB)")
    for names in remote.get(lacking, folder):
        etags |= {name: there[name].etag for name in names}
        write_json(notes, etags)
    for path in folder.rglob("*"):
        if path.is_file() and path.relative_to(folder).as_posix() not in there:
            path.unlink()


def as_url(text: str) -> str:
    """A text that names copies, with their URLs."""
    return re.sub(rf"{re.escape(str(cache_folder('remote')))}/[0-9a-f]{{32}}/", "s3://", text)
