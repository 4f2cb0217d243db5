"""What a result was made from: a digest of each input, kept with it, compared before it is reused.

A file's digest is that of its whole content. It is remembered by what the file system says of the
file, so that a known one costs a `stat`: one small JSON file for each folder, below
`cache_folder("digests")`, which may be removed at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from dear.artifacts import atomic_path, cache_folder
from dear.errors import DataError

FORMAT = "dear-digests/1"

RACY_NS = 2_000_000_000
"""A file that changed so shortly before it was read may change again under the same time stamp
(file systems count in up to 2 s): its digest is not remembered."""

SHOWN_BYTES = 1 << 28
"""From here on it is shown how far reading is."""

Watch = Callable[[str, str], AbstractContextManager[Callable[[int, int], None]]]
"""(what is done, what is counted) → where its progress goes."""

watch: ContextVar[Watch | None] = ContextVar("watch", default=None)
"""Where the progress of reading large files goes; nowhere where None."""

_CHUNK = 1 << 20
_SHOWN_CHANGES = 4


@dataclass(frozen=True, slots=True)
class Input:
    """One thing that a result was made from.

    digest: equal for equal content.  name: what a person calls it.
    values: its content, where that is short enough to be compared key by key, as a recipe is.
    former: whether a digest that an earlier version of DeAR wrote is of this content, as far as
        that version looked; None where it is no such digest.
    """

    digest: str
    name: str = ""
    values: Mapping[str, Any] | None = field(default=None, compare=False)
    former: Callable[[str], bool | None] | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of_values(cls, values: Mapping[str, Any], name: str = "") -> Input:
        """Of what can be written as JSON."""
        plain = json.loads(json.dumps(values, sort_keys=True))
        return cls(text_digest(json.dumps(plain)), name, plain)


@dataclass(frozen=True, slots=True)
class Changes:
    """How a result's inputs differ from those at hand; true where they do.

    by_kind: kind of input → what differs, in words.
    unverified: kinds of which the result does not say, or not exactly, what they were.
    """

    by_kind: Mapping[str, str]
    unverified: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.by_kind)

    def __str__(self) -> str:
        """In one line."""
        words = list(self.by_kind.values())
        more = len(words) - _SHOWN_CHANGES
        return "; ".join(words[:_SHOWN_CHANGES]) + (f"; {more} more" if more > 0 else "")


@dataclass(frozen=True, slots=True)
class Inputs:
    """Everything that a result was made from, by kind: texts, judgements, run, labels, base, ….

    complete: a kind that is not in it was not used; else it may not have been written down.
    """

    by_kind: Mapping[str, Input] = field(default_factory=dict)
    complete: bool = True

    def __getitem__(self, kind: str) -> Input:
        return self.by_kind[kind]

    def __contains__(self, kind: object) -> bool:
        return kind in self.by_kind

    def __iter__(self) -> Iterator[str]:
        return iter(self.by_kind)

    def __or__(self, more: Mapping[str, Input]) -> Inputs:
        return Inputs({**self.by_kind, **more}, self.complete)

    @property
    def digest(self) -> str:
        """Over the digests of all kinds."""
        return text_digest(json.dumps({k: i.digest for k, i in sorted(self.by_kind.items())}))

    def only(self, kinds: Iterable[str]) -> Inputs:
        """Those of these kinds."""
        wanted = set(kinds)
        return Inputs({k: i for k, i in self.by_kind.items() if k in wanted}, self.complete)

    def without(self, kinds: Iterable[str]) -> Inputs:
        """Those of other kinds."""
        return self.only(set(self.by_kind) - set(kinds))

    def changes(self, now: Inputs) -> Changes:
        """How `now` differs from these, which a result was made from."""
        by_kind: dict[str, str] = {}
        unverified: list[str] = []
        for kind in dict.fromkeys([*now, *self]):
            theirs, mine = self.by_kind.get(kind), now.by_kind.get(kind)
            if mine is None:
                if now.complete:
                    by_kind[kind] = f"{kind}: {_called(theirs)} there, none now"
            elif theirs is None:
                if self.complete:
                    by_kind[kind] = f"{kind}: none there, {_called(mine)} now"
                else:
                    unverified.append(kind)
            elif theirs.digest != mine.digest:
                same = mine.former(theirs.digest) if mine.former is not None else None
                if same:
                    unverified.append(kind)
                else:
                    by_kind[kind] = _difference(kind, theirs, mine)
        return Changes(by_kind, tuple(unverified))

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            kind: {
                "digest": one.digest,
                **({"name": one.name} if one.name else {}),
                **({"values": dict(one.values)} if one.values is not None else {}),
            }
            for kind, one in self.by_kind.items()
        }

    @classmethod
    def from_dict(cls, record: object) -> Inputs:
        """What `to_dict` gave; incomplete where that is missing, or is something else."""
        if not isinstance(record, dict):
            return cls(complete=False)
        found = {
            kind: Input(one["digest"], str(one.get("name", "")), one.get("values"))
            for kind, one in record.items()
            if isinstance(one, dict) and isinstance(one.get("digest"), str)
        }
        return cls(found, complete=len(found) == len(record))


def value_differences(there: Any, now: Any, path: str = "") -> list[str]:
    """`key.key: 1 there, 2 now` for everything that differs between two JSON values."""
    if isinstance(there, Mapping) and isinstance(now, Mapping):
        return [
            difference
            for key in sorted({*there, *now})
            for difference in value_differences(
                there.get(key), now.get(key), f"{path}.{key}".lstrip(".")
            )
        ]
    return [] if there == now else [f"{path}: {there!r} there, {now!r} now"]


def _difference(kind: str, there: Input, now: Input) -> str:
    if there.values is not None and now.values is not None:
        if found := value_differences(there.values, now.values, kind):
            return ", ".join(found[:_SHOWN_CHANGES])
    elif there.name == now.name and there.name:
        return f"{kind} ({now.name}) changed"
    return f"{kind}: {_called(there)} there, {_called(now)} now"


def _called(one: Input | None) -> str:
    return "none" if one is None else repr(one.name or one.digest)


# -- content -------------------------------------------------------------------------------


def text_digest(text: str) -> str:
    """32 hexadecimal digits."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def lines_digest(lines: Iterable[str]) -> str:
    """32 hexadecimal digits over texts in their order, each apart from its neighbours."""
    digest = hashlib.sha256()
    for line in lines:
        data = line.encode("utf-8", "surrogatepass")
        digest.update(b"%d:" % len(data))
        digest.update(data)
    return digest.hexdigest()[:32]


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content, 64 hexadecimal digits. DataError: it cannot be read."""
    return file_digests([path])[0]


def file_input(path: Path, name: str = "") -> Input:
    """A file, to its bytes."""
    return Input(file_digest(path)[:32], name or str(path))


def file_digests(paths: Sequence[Path]) -> list[str]:
    """`file_digest` of each; many files of one folder cost one look into the cache."""
    found: dict[Path, str] = {}
    unknown: list[tuple[Path, _Memory, int]] = []
    memories = {folder: _Memory(folder) for folder in {path.parent for path in paths}}
    for path in dict.fromkeys(paths):
        memory = memories[path.parent]
        known = memory.find(_key("sha256", [path]), signature(path))
        if known is None:
            unknown.append((path, memory, _stat(path).st_size))
        else:
            found[path] = known
    total = sum(size for *_, size in unknown)
    with _shown(unknown[0][0].name if unknown else "", total) as report:
        done = 0
        for path, memory, size in unknown:
            read = partial(_read, path, done, report)
            found[path] = memory.keep(_key("sha256", [path]), [path], read)
            done += size
    for memory in memories.values():
        memory.save()
    return [found[path] for path in paths]


def files_digest(files: Mapping[str, Path]) -> str:
    """32 hexadecimal digits over the names and contents of files, whatever their order."""
    contents = file_digests(list(files.values()))
    return lines_digest(part for pair in sorted(zip(files, contents, strict=True)) for part in pair)


def remembered(what: str, paths: Sequence[Path], compute: Callable[[], str]) -> str:
    """`compute()`, or what it gave when these files, all of them, were the same.

    what: names what is computed from them, and how; another way is another name.
    """
    if not paths:
        return compute()
    memory, key = _Memory(paths[0].parent), _key(what, paths)
    known = memory.find(key, signature(*paths))
    if known is None:
        known = memory.keep(key, paths, compute)
        memory.save()
    return known


class _Memory:
    """Known digests of one folder's files.

    Replaced as a whole, so that of two writers one wins and the other's news are lost, which costs
    nothing but reading again. What is damaged is not believed; what cannot be written is left.
    """

    def __init__(self, folder: Path) -> None:
        place = os.path.realpath(folder)
        self.folder = Path(place)
        self.path = cache_folder("digests") / f"{text_digest(place)}.json"
        self._entries = self._load()
        self._new: dict[str, list[str]] = {}

    def find(self, key: str, signature: str) -> str | None:
        entry = self._entries.get(key)
        return entry[1] if entry is not None and entry[0] == signature else None

    def keep(self, key: str, paths: Sequence[Path], compute: Callable[[], str]) -> str:
        """`compute()`, to be remembered unless the files are too young, or change meanwhile."""
        before, started = signature(*paths), time.time_ns()
        digest = compute()
        youngest = max(max(s.st_mtime_ns, s.st_ctime_ns) for s in map(_stat, paths))
        if youngest <= started - RACY_NS and signature(*paths) == before:
            self._new[key] = [before, digest]
        return digest

    def save(self) -> None:
        if not self._new:
            return
        entries = {k: e for k, e in self._load().items() if self._is_there(k)} | self._new
        body = json.dumps(entries, ensure_ascii=True, sort_keys=True)
        text = json.dumps({"format": FORMAT, "check": text_digest(body), "entries": body})
        with contextlib.suppress(DataError), atomic_path(self.path) as temporary:
            temporary.write_text(text, encoding="ascii")
        self._new.clear()

    def _load(self) -> dict[str, list[str]]:
        try:
            stored = json.loads(self.path.read_bytes())
            body = stored["entries"]
            if stored["format"] != FORMAT or text_digest(body) != stored["check"]:
                return {}
            entries: dict[str, list[str]] = json.loads(body)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}
        return entries

    def _is_there(self, key: str) -> bool:
        name: str = json.loads(key)[1]
        return (self.folder / name).exists()


def _key(what: str, paths: Sequence[Path]) -> str:
    names = lines_digest(os.path.abspath(p) for p in paths) if len(paths) > 1 else ""
    return json.dumps([what, paths[0].name, names])


def signature(*paths: Path | os.DirEntry[str]) -> str:
    """Another one where a file's content may be another one."""
    numbers = " ".join(
        f"{s.st_size}.{s.st_mtime_ns}.{s.st_ctime_ns}.{s.st_ino}.{s.st_dev}"
        for s in map(_stat, paths)
    )
    return numbers if len(paths) == 1 else text_digest(numbers)


def _stat(path: Path | os.DirEntry[str]) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise DataError.at(Path(path), None, f"cannot be read: {error.strerror}") from None


def _read(path: Path, done: int, report: Callable[[int], None]) -> str:
    digest, buffer = hashlib.sha256(), bytearray(_CHUNK)
    view = memoryview(buffer)
    try:
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                digest.update(view[:count])
                done += count
                report(done)
    except OSError as error:
        raise DataError.at(path, None, f"cannot be read: {error.strerror}") from None
    return digest.hexdigest()


@contextlib.contextmanager
def _shown(name: str, total: int) -> Iterator[Callable[[int], None]]:
    show = watch.get()
    if show is None or total < SHOWN_BYTES:
        yield lambda _done: None
        return
    with show(f"reading {name} once for its digest", "MB") as report:
        yield lambda done: report(done >> 20, total >> 20)
