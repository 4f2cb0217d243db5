"""Passages by id on disk: millions of them without holding their texts in memory.

A table is `KEY.arrow` (id, title, text), `KEY.npy` (hashes of the ids, sorted; their rows) and
`KEY.json`, written last. Both are memory-mapped.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dear.artifacts import atomic_path, cache_folder
from dear.data.id_keys import id_keys
from dear.data.inputs import Keys
from dear.data.table import Table, damaged, write_once, write_table
from dear.digests import text_digest
from dear.errors import DataError
from dear.records import Passage

FORMAT = "dear-passages/1"
SMALL_BYTES = 64 << 20
"""A file below this is read into memory, and no table is written."""

_BATCH = 2048


def in_memory(passages: Iterable[Passage], source: str) -> dict[str, Passage]:
    """Passage id → passage; DataError for one id with two texts."""
    found: dict[str, Passage] = {}
    for passage in passages:
        if found.setdefault(passage.id, passage) != passage:
            raise DataError(f"{source}: passage {passage.id!r} is there with two texts")
    return found


def in_table(
    read: Callable[[], Iterable[Passage]], digest: str, source: str, tables: Path | None = None
) -> PassageTable:
    """The table of these passages, written if it is not there; one process writes, others wait.

    digest: of what they are read from, and of how.
    """
    name = text_digest(f"{FORMAT} {digest}")
    path = (tables or cache_folder("passages")) / f"{name}.arrow"
    write_once(path, lambda: write_passages(path, read(), source))
    return PassageTable(path)


class PassageTable(Mapping[str, Passage]):
    """A table that is whole. DataError: none there, or a damaged one."""

    def __init__(self, path: Path) -> None:
        self._table = Table(path, FORMAT)
        try:
            self._index: NDArray[Any] = np.load(path.with_suffix(".npy"), mmap_mode="r")
        except (OSError, ValueError) as error:
            raise damaged(path, str(error)) from error
        if self._index.shape != (2, self._table.note["passages"]):
            raise damaged(path, "passages are missing")

    def __len__(self) -> int:
        return int(self._index.shape[1])

    def __iter__(self) -> Iterator[str]:
        for row in self._index[1]:
            yield self._passage(int(row)).id

    def __getitem__(self, passage_id: str) -> Passage:
        keys = self._index[0]
        key = id_keys([passage_id])[0]
        # a hash may be shared: all rows that have it are looked at
        for place in range(int(np.searchsorted(keys, key)), len(keys)):
            if keys[place] != key:
                break
            passage = self._passage(int(self._index[1][place]))
            if passage.id == passage_id:
                return passage
        raise KeyError(passage_id)

    def _passage(self, row: int) -> Passage:
        return Passage(**self._table.row(row))


def write_passages(path: Path, passages: Iterable[Passage], source: str) -> None:
    """All passages into one table. The same passage may come again; DataError, with the source's
    name, for one id with two texts. Memory: about 50 bytes a passage, and one batch of texts."""
    schema = pa.schema([("id", pa.string()), ("title", pa.string()), ("text", pa.string())])
    keys: list[Keys] = []
    prints: list[Keys] = []

    def rows() -> Iterator[dict[str, str]]:
        stream = iter(passages)
        while chunk := list(itertools.islice(stream, _BATCH)):
            keys.append(id_keys(p.id for p in chunk))
            prints.append(id_keys(f"{p.title}\n{p.text}" for p in chunk))
            yield from ({"id": p.id, "title": p.title, "text": p.text} for p in chunk)

    def note() -> dict[str, Any]:
        if not keys:
            raise DataError(f"{source}: holds no passages")
        index = _index_of(source, np.concatenate(keys), np.concatenate(prints))
        with atomic_path(path.with_suffix(".npy")) as temporary, temporary.open("wb") as file:
            np.save(file, index)
        return {"format": FORMAT, "passages": index.shape[1]}

    write_table(path, schema, rows(), note, batch=_BATCH)


def _index_of(source: str, keys: Keys, prints: Keys) -> Keys:
    """(2, n): hashes in order, each once, and the first row that has each."""
    order = np.argsort(keys, kind="stable")
    repeats = np.flatnonzero(keys[order][1:] == keys[order][:-1]) + 1
    # 64 bits: that two ids of 8.8 million share a hash, and are taken for one, is 2 in a million
    other = repeats[prints[order[repeats]] != prints[order[repeats - 1]]]
    if len(other):
        raise DataError(
            f"{source}: passage {order[other[0]] + 1:,} has the id of an earlier one and another "
            "text"
        )
    kept = np.delete(order, repeats)
    return np.stack([keys[kept], kept.astype(np.uint64)])
