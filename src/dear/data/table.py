"""Tables on disk: one process writes one once, all read rows of it by number, memory-mapped.

A table is `KEY.arrow` and its note `KEY.json`. The note is written last, so that a file without
one is no table.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from dear import locks
from dear.artifacts import atomic_path, read_json, write_json
from dear.errors import DataError


class Table:
    """A table that is whole. Only the pages that were read are in memory, and they can go again.

    note: what `write_table` was given.  DataError: no table there, or a damaged one.
    """

    def __init__(self, path: Path, format_: str) -> None:
        self.path, self.note = path, read_json(_note_path(path))
        if self.note.get("format") != format_:
            raise DataError.at(path, None, f"is not of format {format_}")
        try:
            reader = pa.ipc.open_file(pa.memory_map(str(path)))
            self._batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        except (pa.ArrowException, OSError) as error:
            raise damaged(path, str(error)) from error
        # all batches but the last are of one size
        self._size = self._batches[0].num_rows if self._batches else 1

    def __len__(self) -> int:
        return sum(batch.num_rows for batch in self._batches)

    def row(self, number: int) -> dict[str, Any]:
        """Column → value."""
        batch, at = self._batches[number // self._size], number % self._size
        return {name: batch.column(name)[at].as_py() for name in batch.schema.names}


def damaged(path: Path, problem: str) -> DataError:
    return DataError.at(path, None, f"the table is damaged, remove it: {problem.splitlines()[0]}")


def write_table(
    path: Path,
    schema: Any,
    rows: Iterable[Mapping[str, Any]],
    note: Callable[[], Mapping[str, Any]],
    *,
    batch: int,
) -> None:
    """All rows into one table, `batch` of them in memory at a time.

    note: called when the last row has come.
    """
    with (
        atomic_path(path) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, schema) as writer,
    ):
        stream = iter(rows)
        while chunk := list(itertools.islice(stream, batch)):
            writer.write_batch(pa.RecordBatch.from_pylist(chunk, schema=schema))
    write_json(_note_path(path), dict(note()))


def is_table(path: Path) -> bool:
    return _note_path(path).exists()


def write_once(path: Path, write: Callable[[], None]) -> None:
    """Call `write` unless the table is there; other processes that want it wait."""
    if is_table(path):
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.with_suffix(".lock").open("w")
    except OSError as error:
        raise DataError.at(path, None, f"cannot be written: {error.strerror or error}") from error
    with lock:
        locks.lock(lock.fileno(), wait=True)
        for cut_short in path.parent.glob(f".{path.name}.*.tmp"):  # of a writer that was killed
            cut_short.unlink(missing_ok=True)
        if not is_table(path):  # another process may have been first
            write()


def _note_path(path: Path) -> Path:
    return path.with_suffix(".json")
