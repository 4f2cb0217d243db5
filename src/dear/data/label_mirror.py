"""A label store's copy at a URL, from which a job goes on whose machine is gone.

The copy is one file behind the store at most. Object stores have no locks: whoever starts last
leaves its mark in `writer.json`, and a process that finds another's mark stops. A shard that is
there is never overwritten, so that what two of them write at the same moment stays as it is.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from dear.artifacts import atomic_path
from dear.data.label_failures import FAILED
from dear.data.labels import MANIFEST, Manifest, Stamp, clear_failures, is_of_store, is_shard
from dear.data.remote import AT_ONCE, Remote, RemoteFile
from dear.data.shards import Share
from dear.errors import ContractMismatch, DataError, DearError
from dear.notices import say, warn

WRITER = "writer.json"

PAUSES_S = (1.0, 2.0, 4.0, 8.0, 16.0, None)
"""After each attempt to write; None is behind the last one."""


class LabelMirror:
    """One store, or several below it, as `dear.data.labels.open_store` keeps it."""

    def __init__(self, url: str) -> None:
        self._remote = Remote(url)
        self.url = self._remote.url
        self._there: dict[str, RemoteFile] = {}
        self._mark: bytes | None = None

    def below(self, name: str) -> LabelMirror:
        return LabelMirror(f"{self.url}/{name}")

    def holds(self, name: str) -> bool:
        """DataError: the URL cannot be read."""
        return bool(Remote(f"{self.url}/{name}").files())

    def take_over(self, folder: Path, stamp: Stamp, share: Share | None) -> None:
        """What is at the URL and not in the folder is fetched, what could not be scored is to be
        tried again; from now on others stop.

        ContractMismatch: the labels of another job, or another shard of the same name.
        """
        if (folder / MANIFEST).exists():
            _require(Manifest.read(folder), folder, stamp, share)
            clear_failures(folder)
        manifest = self._manifest(stamp, share)
        mark = {"writer": secrets.token_hex(16), "machine": platform.node(),
                "since": datetime.now(UTC).isoformat(timespec="seconds")}  # fmt: skip
        self._mark = (json.dumps(mark) + "\n").encode()
        self._remote.put(WRITER, self._mark)
        self._there = {n: f for n, f in self._remote.files().items() if is_of_store(n)}
        if manifest is None and self._there:
            raise DataError(f"{self.url}: shards but no {MANIFEST}; choose another URL")
        self._clear_failures(folder)
        if manifest is not None:
            self._fetch(folder, manifest)

    def _manifest(self, stamp: Stamp, share: Share | None) -> bytes | None:
        data = self._remote.read(MANIFEST)
        if data is not None:
            with self._copied(MANIFEST, data) as copy:
                _require(Manifest.read(copy), self.url, stamp, share)
        return data

    @contextlib.contextmanager
    def _copied(self, name: str, data: bytes) -> Iterator[Path]:
        """A folder with this file alone; errors name the URL in place of it."""
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / name).write_bytes(data)
            try:
                yield Path(folder)
            except DearError as error:
                raise type(error)(str(error).replace(folder, self.url)) from error

    def _clear_failures(self, folder: Path) -> None:
        """There, as it was done in the folder."""
        if FAILED not in self._there:
            return
        with self._copied(FAILED, self._remote.read(FAILED) or b"") as copy:
            names = clear_failures(copy)
        for name in names:
            self._tried(folder, partial(self._remote.remove, name))
            self._there.pop(name, None)

    def _fetch(self, folder: Path, manifest: bytes) -> None:
        here = {path.name for path in folder.iterdir() if is_shard(path.name)}
        shards = {name for name in self._there if is_shard(name)}
        for name in sorted(shards & here):
            if not self._is_same(folder / name):
                raise ContractMismatch(
                    f"{folder} and {self.url} hold different {name}; choose another of one, or "
                    "remove that file here"
                )
        mine = folder / MANIFEST
        if not mine.exists() or _jobs(mine.read_bytes()) < _jobs(manifest):
            with atomic_path(mine) as temporary:  # first: shards without it are no store
                temporary.write_bytes(manifest)
        if lacking := sorted(shards - here):
            say(f"{self.url}: {len(lacking):,} of {len(shards):,} shards fetched to {folder}")
            list(self._remote.get(lacking, folder))

    def _is_same(self, path: Path) -> bool:
        data, there = path.read_bytes(), self._there[path.name]
        if there.etag == hashlib.md5(data, usedforsecurity=False).hexdigest():
            return True
        # keys of one's own for encryption make other ETags
        return there.size == len(data) and self._remote.read(path.name) == data

    def level(self, folder: Path) -> None:
        """What is in the folder and not at the URL is copied there."""
        self.push(folder, MANIFEST)
        lacking = [p for p in folder.iterdir() if is_shard(p.name) and p.name not in self._there]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(lambda path: self._tried(folder, partial(self._put, path)), lacking))

    def push(self, folder: Path, *names: str) -> None:
        """Copy these files of the folder there, one after the other.

        DataError: it cannot be written, after some attempts. ContractMismatch: another process has
        taken over, or another shard of that name is there.
        """
        self._tried(folder, self._require_mine)
        for name in names:
            self._tried(folder, partial(self._put, folder / name))

    def _put(self, path: Path) -> None:
        data = path.read_bytes()
        try:
            self._remote.put(path.name, data, new=is_shard(path.name))
        except FileExistsError:
            # of an attempt whose answer was lost, or of another process that scored the same
            if self._remote.read(path.name) != data:
                raise ContractMismatch(
                    f"{self.url} holds another {path.name}, of a process that labelled at the same "
                    "time; one process writes to a mirror"
                ) from None

    def _require_mine(self) -> None:
        if self._mark is None:
            return
        found = self._remote.read(WRITER)
        if found != self._mark:
            who = (found or b"nobody").decode(errors="replace").strip()
            raise ContractMismatch(
                f"{self.url}: another process has gone on with this mirror ({who}); this one stops"
            )

    def _tried(self, folder: Path, work: Callable[[], None]) -> None:
        """With growing pauses where something fails that may pass."""
        for pause in PAUSES_S:
            try:
                work()
                return
            except DataError as error:
                lasts = isinstance(error.__cause__, FileNotFoundError | PermissionError)
                if pause is None or lasts:
                    raise DataError(
                        f"{error}; what is done is in {folder}, and the same command goes on"
                    ) from error.__cause__
                warn(f"{error}; tried again in {pause:g} s")
                time.sleep(pause)


def _require(store: Manifest, where: Path | str, stamp: Stamp, share: Share | None) -> None:
    stamp.require(store.stamp, where)
    store.require_share(share, where)


def _jobs(manifest: bytes) -> int:
    jobs = json.loads(manifest).get("jobs")
    return len(jobs) if isinstance(jobs, list) else 0
