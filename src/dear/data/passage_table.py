"""Passages by id on disk: millions of them without holding their texts in memory.

A table is `KEY.arrow` (id, title, text), `KEY.npy` (hashes of the ids, sorted; their rows) and
`KEY.json`, written last. Both are memory-mapped.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dear.artifacts import atomic_path, cache_folder, read_json, write_json
from dear.data.collections import open_collection
from dear.data.example_table import about_path, alone
from dear.data.folders import corpus_reader
from dear.data.formats.beir import passage_of
from dear.data.inputs import corpus_input
from dear.data.training_rows import PARQUET, open_rows
from dear.digests import text_digest
from dear.errors import DataError
from dear.records import Passage

FORMAT = "dear-passages/1"
SMALL_BYTES = 64 << 20
"""A file below this is read into memory, and no table is written."""

_BATCH = 2048


def open_passages(spec: str, tables: Path | None = None) -> Mapping[str, Passage]:
    """Passage id → passage, of a corpus file, a data set of the hub, or a collection.

    Files are .jsonl, .jsonl.gz or .parquet with `docid` (or `_id`), `text` and `title`, as BEIR
    and Tevatron have them. Small files are held in memory; for others, and for the hub, a table is
    written once, in `tables` or in the cache.
    """
    path = Path(spec).expanduser()
    if not _is_rows(spec):
        return open_collection(spec).corpus
    rows = open_rows(spec)
    if path.is_file() and path.stat().st_size < SMALL_BYTES and not spec.endswith(PARQUET):
        return in_memory(map(passage_of, rows.read()), spec)
    return in_table(lambda: map(passage_of, rows.read()), rows.digest(), spec, tables)


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
    if not about_path(path).exists():
        with alone(path):
            if not about_path(path).exists():
                write_passages(path, read(), source)
    return PassageTable(path)


def passages_digest(spec: str) -> str:
    """Over all passages that `open_passages` gives; "" for no spec."""
    if not spec:
        return ""
    return (
        open_rows(spec).digest() if _is_rows(spec) else corpus_input(open_collection(spec)).digest
    )


def _is_rows(spec: str) -> bool:
    path = Path(spec).expanduser()
    if path.exists():
        return path.is_file() or corpus_reader(path) is None
    return "/" in spec and not spec.startswith("irds:")


class PassageTable(Mapping[str, Passage]):
    """A table that is whole. DataError: none there, or a damaged one."""

    def __init__(self, path: Path) -> None:
        import pyarrow as pa

        about = read_json(about_path(path))
        if about.get("format") != FORMAT:
            raise DataError.at(path, None, f"is not of format {FORMAT}")
        try:
            reader = pa.ipc.open_file(pa.memory_map(str(path)))
            self._batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
            self._index: NDArray[Any] = np.load(path.with_suffix(".npy"), mmap_mode="r")
        except (pa.ArrowException, OSError, ValueError) as error:
            problem = f"the table is damaged, remove it: {str(error).splitlines()[0]}"
            raise DataError.at(path, None, problem) from error
        if self._index.shape != (2, about["passages"]):
            raise DataError.at(path, None, "the table is damaged, remove it: passages are missing")
        self.path = path

    def __len__(self) -> int:
        return int(self._index.shape[1])

    def __iter__(self) -> Iterator[str]:
        for row in self._index[1]:
            yield self._passage(int(row)).id

    def __getitem__(self, passage_id: str) -> Passage:
        keys = self._index[0]
        key = np.uint64(_key(passage_id))
        # a hash may be shared: all rows that have it are looked at
        for place in range(int(np.searchsorted(keys, key)), len(keys)):
            if keys[place] != key:
                break
            passage = self._passage(int(self._index[1][place]))
            if passage.id == passage_id:
                return passage
        raise KeyError(passage_id)

    def _passage(self, row: int) -> Passage:
        batch, at = self._batches[row // _BATCH], row % _BATCH
        return Passage(
            id=batch.column("id")[at].as_py(),
            text=batch.column("text")[at].as_py(),
            title=batch.column("title")[at].as_py(),
        )


def write_passages(path: Path, passages: Iterable[Passage], source: str) -> None:
    """All passages into one table. The same passage may come again; DataError, with the source's
    name, for one id with two texts. Memory: about 50 bytes a passage, and one batch of texts."""
    import pyarrow as pa

    schema = pa.schema([("id", pa.string()), ("title", pa.string()), ("text", pa.string())])
    keys: list[NDArray[np.uint64]] = []
    prints: list[NDArray[np.uint64]] = []
    with (
        atomic_path(path) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, schema) as writer,
    ):
        stream = iter(passages)
        while chunk := list(itertools.islice(stream, _BATCH)):
            writer.write_batch(
                pa.RecordBatch.from_pylist(
                    [{"id": p.id, "title": p.title, "text": p.text} for p in chunk],
                    schema=schema,
                )
            )
            keys.append(np.array([_key(p.id) for p in chunk], dtype=np.uint64))
            prints.append(np.array([_key(f"{p.title}\n{p.text}") for p in chunk], np.uint64))
    index = _index_of(source, keys, prints)
    with atomic_path(path.with_suffix(".npy")) as temporary, temporary.open("wb") as file:
        np.save(file, index)
    write_json(about_path(path), {"format": FORMAT, "passages": index.shape[1]})


def _index_of(
    source: str, keys: list[NDArray[np.uint64]], prints: list[NDArray[np.uint64]]
) -> NDArray[np.uint64]:
    """(2, n): hashes in order, each once, and the first row that has each."""
    if not keys:
        raise DataError(f"{source}: holds no passages")
    all_keys, all_prints = np.concatenate(keys), np.concatenate(prints)
    order = np.argsort(all_keys, kind="stable")
    repeats = np.flatnonzero(all_keys[order][1:] == all_keys[order][:-1]) + 1
    # 64 bits: that two ids of 8.8 million share a hash, and are taken for one, is 2 in a million
    other = repeats[all_prints[order[repeats]] != all_prints[order[repeats - 1]]]
    if len(other):
        raise DataError(
            f"{source}: passage {order[other[0]] + 1:,} has the id of an earlier one and another "
            "text"
        )
    kept = np.delete(order, repeats)
    return np.stack([all_keys[kept], kept.astype(np.uint64)])


def _key(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
