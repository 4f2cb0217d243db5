"""A label store's copy at a URL, from which a job goes on whose machine is gone.

The copy is one file behind the store at most. Object stores have no locks: whoever starts last
leaves its mark in `writer.json`, and a process that finds another's mark stops. A shard that is
there is never overwritten, so that what two of them wrote in between stays as it is.
"""

from __future__ import annotations

import hashlib
import json
import platform
import secrets
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from dear.artifacts import read_json
from dear.data.labels import MANIFEST, Manifest, Stamp, is_of_store, is_shard
from dear.data.remote import AT_ONCE, Remote, RemoteFile, called
from dear.data.shards import Share
from dear.errors import ContractMismatch, DataError
from dear.notices import say, warn

WRITER = "writer.json"

PAUSES_S = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Before each further attempt to write."""


class LabelMirror:
    """One store, or several below it, as `dear.data.labels.open_store` keeps it."""

    def __init__(self, url: str) -> None:
        self.remote = Remote(url)
        self.url = self.remote.url
        self._given = url.rstrip("/")
        self._there: dict[str, RemoteFile] = {}
        self._mark: bytes | None = None

    def below(self, name: str) -> LabelMirror:
        return LabelMirror(f"{self._given}/{name}")

    def holds(self, name: str) -> bool:
        return name in self.remote.files()

    def take_over(self, folder: Path, stamp: Stamp, share: Share | None) -> None:
        """What is at the URL and not in the folder is fetched; from now on others stop.

        ContractMismatch: the labels of another job, or another file of the same name.
        """
        if (folder / MANIFEST).exists():
            _require(Manifest.read(folder), folder, stamp, share)
        there = {n: file for n, file in self.remote.files().items() if is_of_store(n)}
        self._there = there
        if MANIFEST in there:
            self._fetch(folder, stamp, share)
        elif there:
            raise DataError(f"{self.url}: shards but no {MANIFEST}; choose another URL")
        mark = {"writer": secrets.token_hex(16), "machine": platform.node(),
                "since": datetime.now(UTC).isoformat(timespec="seconds")}  # fmt: skip
        self._mark = (json.dumps(mark) + "\n").encode()
        with tempfile.TemporaryDirectory() as temporary:
            path = Path(temporary) / WRITER
            path.write_bytes(self._mark)
            self._tried(folder, partial(self.remote.put, WRITER, path))

    def _fetch(self, folder: Path, stamp: Stamp, share: Share | None) -> None:
        there = self._there
        with tempfile.TemporaryDirectory() as temporary:
            copy = Path(temporary)
            list(self.remote.get({MANIFEST: there[MANIFEST]}, copy))
            with called(self.url, copy):
                theirs = Manifest.read(copy)
            _require(theirs, self.url, stamp, share)
            jobs = len(read_json(copy / MANIFEST).get("jobs", ()))
        shards = {name: file for name, file in there.items() if name != MANIFEST}
        here = [path for path in folder.iterdir() if is_shard(path.name)]
        for path in here:
            if path.name in shards and not self._is_same(path, shards[path.name]):
                raise ContractMismatch(
                    f"{folder} and {self.url} hold different {path.name}; choose another of one, "
                    "or remove that file here"
                )
        lacking = {name: shards[name] for name in set(shards) - {path.name for path in here}}
        mine = folder / MANIFEST
        own = len(read_json(mine).get("jobs", ())) if mine.is_file() else -1
        # first: shards without it are no store
        if own < 0 or (len(shards), jobs) > (len(here), own):
            lacking = {MANIFEST: there[MANIFEST], **lacking}
        if lacking:
            say(f"{self.url}: {len(lacking):,} of {len(there):,} files fetched to {folder}")
            first = {name: file for name, file in lacking.items() if name == MANIFEST}
            for files in (first, lacking):
                list(self.remote.get(files, folder))

    def _is_same(self, path: Path, file: RemoteFile) -> bool:
        """The ETag of most objects is their MD5."""
        data = path.read_bytes()
        if file.size not in (None, len(data)):
            return False
        md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
        return file.etag == md5 or self.remote.read(path.name) == data

    def level(self, folder: Path) -> None:
        """What is in the folder and not at the URL is copied there."""
        self.push(folder, MANIFEST)
        lacking = [p for p in folder.iterdir() if is_shard(p.name) and p.name not in self._there]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(lambda path: self._tried(folder, partial(self._put, path)), lacking))

    def push(self, folder: Path, *names: str) -> None:
        """Copy these files of the folder there, one after the other.

        DataError: it cannot be written, after some attempts, or another process has taken over.
        ContractMismatch: another shard of that name is there.
        """
        self._tried(folder, self._require_mine)
        for name in names:
            self._tried(folder, partial(self._put, folder / name))

    def _put(self, path: Path) -> None:
        shard = is_shard(path.name)
        try:
            self.remote.put(path.name, path, new=shard)
        except FileExistsError:
            # of an attempt whose answer was lost, or of another process that scored the same
            if self.remote.read(path.name) != path.read_bytes():
                raise ContractMismatch(
                    f"{self.url} holds another {path.name}, of a process that labelled at the same "
                    "time; one process writes to a mirror"
                ) from None

    def _require_mine(self) -> None:
        if self._mark is None:
            return
        found = self.remote.read(WRITER)
        if found != self._mark:
            who = (found or b"nobody").decode(errors="replace").strip()
            raise ContractMismatch(
                f"{self.url}: another process has gone on with this mirror ({who}); this one stops"
            )

    def _tried(self, folder: Path, work: Callable[[], None]) -> None:
        """With growing pauses where something fails that may pass."""
        pauses: Sequence[float | None] = (*PAUSES_S, None)
        for pause in pauses:
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
