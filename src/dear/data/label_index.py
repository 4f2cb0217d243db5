"""Where each label of a store is: 20 bytes a pair and 16 a query, sorted, memory-mapped.

A store's shards are what counts. The index is made of them and kept in the cache, for stores that
are large; it says which shards it covers, and those behind them are read when the store is opened.
Ids stand in it as 64 bits of a hash: that a pair without a label gets another's is less than one
in a hundred billion for each look-up in a store of 100 million pairs.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dear.artifacts import cache_folder, read_json, write_json
from dear.data.id_keys import id_keys
from dear.data.inputs import UNKNOWN, Keys
from dear.digests import text_digest
from dear.errors import DataError

FORMAT = "dear-label-index/1"
_ABOUT = "about.json"

KEPT_ROWS = 200_000
"""So many rows beyond the index are read when a store is opened (in about half a second); where
there are more, the index is written anew."""

_CHUNK_ROWS = 1 << 20
_COLUMNS: dict[str, str] = {
    "queries": "<u8",
    "starts": "<i8",
    "passages": "<u8",
    "scores": "<f4",
    "texts": "<u8",
}

_Places = NDArray[np.intp]
Scores = NDArray[np.float32]
Columns = tuple[Keys, Keys, Scores, Keys]
"""Of as many rows each: query keys, passage keys, scores, digests of texts."""


def query_keys(ids: Sequence[str]) -> Keys:
    """`id_keys` of ids that come again and again."""
    unique = {query_id: i for i, query_id in enumerate(dict.fromkeys(ids))}
    return id_keys(unique)[[unique[i] for i in ids]] if unique else np.empty(0, dtype=np.uint64)


class TwoLabelsError(Exception):
    """Of one pair with the same texts. args: the key of its query, that of its passage."""


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Labels sorted by query key, then by passage key; no pair twice.

    queries: uint64 (Q,).  starts: int64 (Q + 1,), where each query's rows begin.
    passages: uint64 (N,).  scores: float32 (N,).  texts: uint64 (N,), UNKNOWN where none is known.
    """

    queries: Keys
    starts: NDArray[np.int64]
    passages: Keys
    scores: Scores
    texts: Keys

    def __len__(self) -> int:
        return len(self.passages)

    @classmethod
    def of(cls, queries: Keys, passages: Keys, scores: Scores, texts: Keys) -> Rows:
        """Columns in any order, (N,) each; of a pair that comes again the last row counts."""
        order = np.lexsort((passages, queries))  # stable: the last stays last
        queries, passages = queries[order], passages[order]
        again = (queries[1:] == queries[:-1]) & (passages[1:] == passages[:-1])
        if again.any():
            last = np.append(~again, True)
            order, queries, passages = order[last], queries[last], passages[last]
        different = np.flatnonzero(np.append(True, queries[1:] != queries[:-1])[: len(queries)])
        return cls(
            queries[different],
            np.append(different, len(queries)).astype(np.int64),
            passages,
            scores[order],
            texts[order],
        )

    def find(self, queries: Keys, passages: Keys) -> _Places:
        """The row of each pair, (n,); -1 where there is none."""
        if not len(self):
            return np.full(len(queries), -1, dtype=np.intp)
        at = np.minimum(np.searchsorted(self.queries, queries), len(self.queries) - 1)
        known = self.queries[at] == queries
        low = self.starts[at]
        high = end = np.where(known, self.starts[at + 1], low)
        last = len(self) - 1
        while (searched := low < high).any():  # bisection, for all pairs at once
            middle = (low + high) // 2
            below = self.passages[np.minimum(middle, last)] < passages
            low, high = (
                np.where(searched & below, middle + 1, low),
                np.where(searched & ~below, middle, high),
            )
        found = (low < end) & (self.passages[np.minimum(low, last)] == passages)
        return np.where(found, low, -1)

    def part(self, first: int = 0, behind: int | None = None) -> Columns:
        """The columns of the queries at these positions, all where none are given."""
        behind = len(self.queries) if behind is None else behind
        rows = slice(int(self.starts[first]), int(self.starts[behind]))
        counts = np.diff(self.starts[first : behind + 1])
        keys = np.repeat(self.queries[first:behind], counts)
        return keys, self.passages[rows], self.scores[rows], self.texts[rows]


EMPTY = Rows.of(
    np.empty(0, np.uint64), np.empty(0, np.uint64), np.empty(0, np.float32), np.empty(0, np.uint64)
)


def merged(earlier: Rows, later: Rows) -> Rows:
    """Both; of a pair in both, the later row."""
    if not len(earlier) or not len(later):
        return later if len(later) else earlier
    return _of_both(earlier.part(), later.part())


def merged_parts(earlier: Rows, later: Rows, rows: int = _CHUNK_ROWS) -> Iterator[Rows]:
    """`merged` in parts of about `rows` rows, in order, no query in two of them."""
    edges = _edges([earlier, later], rows)
    a, b = (np.searchsorted(one.queries, edges) for one in (earlier, later))
    for i in range(len(edges) - 1):
        yield _of_both(earlier.part(a[i], a[i + 1]), later.part(b[i], b[i + 1]))
    yield _of_both(earlier.part(a[-1]), later.part(b[-1]))


def _of_both(earlier: Columns, later: Columns) -> Rows:
    columns: Iterator[Any] = zip(earlier, later, strict=True)
    return Rows.of(*(np.concatenate(both) for both in columns))


def _edges(every: Sequence[Rows], rows: int) -> Keys:
    """Query keys, the smallest possible first, between which there are about `rows` rows."""
    largest = max(every, key=len)
    wanted = np.arange(0, len(largest), rows)
    at = np.searchsorted(largest.starts, wanted, side="right") - 1
    edges = np.unique(largest.queries[at]) if len(largest) else np.empty(0, dtype=np.uint64)
    return np.append(np.zeros(1, dtype=np.uint64), edges[1:])


class LabelIndex:
    """The labels of a store by id, the latest of each pair."""

    def __init__(self, rows: Rows = EMPTY) -> None:
        self._parts = [rows]
        self._count = len(rows)

    def __len__(self) -> int:
        return self._count

    def find(self, queries: Keys, passages: Keys) -> tuple[NDArray[np.bool_], Scores, Keys]:
        """(whether there is a label, its score or NaN, the digest of its texts), each (n,)."""
        scores = np.full(len(queries), np.nan, dtype=np.float32)
        texts = np.full(len(queries), UNKNOWN)
        found = np.zeros(len(queries), dtype=np.bool_)
        for part in reversed(self._parts):
            open_ = np.flatnonzero(~found)
            places = part.find(queries[open_], passages[open_])
            here = places >= 0
            found[open_[here]] = True
            scores[open_[here]] = part.scores[places[here]]
            texts[open_[here]] = part.texts[places[here]]
        return found, scores, texts

    def count_new(self, rows: Rows) -> int:
        """How many of these pairs have no label. TwoLabelsError where one has, and for the same
        texts."""
        keys, passages, _, texts = rows.part()
        found, _, known = self.find(keys, passages)
        twice = np.flatnonzero(found & (known == texts))
        if len(twice):
            raise TwoLabelsError(keys[twice[0]], passages[twice[0]])
        return int((~found).sum())

    def add(self, rows: Rows, new: int) -> None:
        """Labels that count from now on. new: as `count_new` has it."""
        self._count += new
        self._parts.append(rows)
        # parts halve in size, so that there are few of them; the first one may be on disk
        while len(self._parts) > 2 and len(self._parts[-2]) < 2 * len(self._parts[-1]):
            later = self._parts.pop()
            self._parts.append(merged(self._parts.pop(), later))

    @property
    def behind(self) -> int:
        """Rows that are not in the first part."""
        return sum(len(part) for part in self._parts[1:])

    def save(self, folder: Path, covered: Mapping[str, str]) -> None:
        """Write it to the cache as the index of the store in `folder`, and go on with that.

        covered: shard → what the file system says of it. A cache that cannot be written is left.
        """
        later = EMPTY
        for part in self._parts[1:]:
            later = merged(later, part)
        with contextlib.suppress(DataError, OSError):
            self._parts = [_write(folder, self._parts[0], later, covered)]


def load(folder: Path, shards: Mapping[str, str]) -> tuple[LabelIndex, list[str]]:
    """(what the cache holds of the store in `folder`, the shards that are not in it).

    shards: name, in order → what the file system says of it. The index is left where one of its
    shards is another now, or is gone, or where an earlier one has come.
    """
    place, names = _place(folder), list(shards)
    for _ in range(2):  # another process may replace it in between
        try:
            about = read_json(place / _ABOUT)
            covered = about["shards"]
            known = {name: shards[name] for name in names[: len(covered)]}
            if about["format"] != FORMAT or covered != known:
                break
            return LabelIndex(_map(place, about)), names[len(covered) :]
        except (DataError, OSError, KeyError, TypeError, ValueError):
            continue
    return LabelIndex(), names


def _place(folder: Path) -> Path:
    return cache_folder("labels") / text_digest(os.path.realpath(folder))


def _map(place: Path, about: Mapping[str, Any]) -> Rows:
    columns = []
    for name, kind in _COLUMNS.items():
        path = place / f"{about['generation']}.{name}"
        count = about["rows"] if name in ("passages", "scores", "texts") else about["queries"]
        count += name == "starts"
        if path.stat().st_size != count * np.dtype(kind).itemsize:
            raise ValueError(f"{path} is not whole")
        # a view: every look into a memmap itself would make another one
        columns.append(np.asarray(np.memmap(path, dtype=kind, mode="r", shape=(count,))))
    return Rows(*columns)


def _write(folder: Path, earlier: Rows, later: Rows, covered: Mapping[str, str]) -> Rows:
    place, generation = _place(folder), secrets.token_hex(6)
    place.mkdir(parents=True, exist_ok=True)
    paths = {name: place / f"{generation}.{name}" for name in _COLUMNS}
    queries = rows = 0
    try:
        before = str(read_json(place / _ABOUT)["generation"])
    except (DataError, KeyError):
        before = ""
    try:
        with contextlib.ExitStack() as stack:
            files = {n: stack.enter_context(path.open("wb")) for n, path in paths.items()}
            for part in merged_parts(earlier, later):
                for name in ("queries", "passages", "scores", "texts"):
                    files[name].write(_bytes(getattr(part, name), name))
                files["starts"].write(_bytes(part.starts[:-1] + rows, "starts"))
                queries, rows = queries + len(part.queries), rows + len(part)
            files["starts"].write(_bytes(np.array([rows]), "starts"))
        about = {
            "format": FORMAT,
            "store": os.path.realpath(folder),
            "generation": generation,
            "queries": queries,
            "rows": rows,
            "shards": dict(covered),
        }
        write_json(place / _ABOUT, about)
    except BaseException:
        for path in paths.values():
            with contextlib.suppress(OSError):
                path.unlink()
        raise
    rows_now = _map(place, about)
    for old in place.iterdir():
        replaced = before and old.name.startswith(f"{before}.")
        killed = old.name != _ABOUT and not old.name.startswith(generation) and _is_old(old)
        if replaced or killed:
            with contextlib.suppress(OSError):  # whoever has it open keeps it
                old.unlink()
    return rows_now


def _is_old(path: Path) -> bool:
    """Of a writer that was killed: no other takes a day."""
    try:
        return path.stat().st_mtime < time.time() - 86400
    except OSError:
        return False


def _bytes(values: NDArray[Any], name: str) -> bytes:
    return np.ascontiguousarray(values, dtype=_COLUMNS[name]).tobytes()
