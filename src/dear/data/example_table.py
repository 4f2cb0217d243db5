"""Training examples on disk: written once, read by index from a memory-mapped Arrow file.

A table is `KEY.arrow` and `KEY.json`; the second is written last, so that a table without it is
none. KEY says what the examples were drawn from, so that a training that goes on, and every
process of one, finds the table instead of drawing again.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, overload

from dear import locks
from dear.artifacts import atomic_path, cache_folder, read_json, write_json
from dear.data.groups import Group
from dear.digests import text_digest
from dear.errors import DataError

FORMAT = "dear-examples/1"
IN_MEMORY = 4096
"""Examples up to this number are kept in memory, and no file is written."""

_BATCH = 512


@dataclass(frozen=True, slots=True)
class Example:
    """One group and the texts that it names."""

    group: Group
    query: str
    passages: tuple[str, ...]


@dataclass(slots=True)
class ExampleTotals:
    """What a set of examples holds, in numbers.

    without_teacher: groups without a teacher's scores.  with_relevant: those with a grade above 0.
    """

    groups: int = 0
    pairs: int = 0
    without_teacher: int = 0
    with_relevant: int = 0

    def add(self, example: Example) -> None:
        self.groups += 1
        self.pairs += len(example.passages)
        self.without_teacher += example.group.teacher is None
        self.with_relevant += max(example.group.grades) > 0


class ExampleTable(Sequence[Example]):
    """A table that is whole. Only the pages that were read are in memory, and they can go again.

    DataError: no table there, or a damaged one.
    """

    def __init__(self, path: Path) -> None:
        import pyarrow as pa

        about = read_json(about_path(path))
        if about.get("format") != FORMAT:
            raise DataError.at(path, None, f"is not of format {FORMAT}")
        self.path, self.fingerprint = path, str(about["fingerprint"])
        self.totals = ExampleTotals(**about["totals"])
        self.counts: dict[str, Any] = about["counts"]
        try:
            reader = pa.ipc.open_file(pa.memory_map(str(path)))
            self._batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        except (pa.ArrowException, OSError) as error:
            problem = f"the table is damaged, remove it: {str(error).splitlines()[0]}"
            raise DataError.at(path, None, problem) from error
        if sum(b.num_rows for b in self._batches) != self.totals.groups:
            raise DataError.at(path, None, "the table is damaged, remove it: rows are missing")

    def __len__(self) -> int:
        return self.totals.groups

    def __reduce__(self) -> tuple[type[ExampleTable], tuple[Path]]:
        return ExampleTable, (self.path,)  # a worker process maps the file anew

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        return _picked(index, len(self), self._at)

    def _at(self, place: int) -> Example:
        batch, row = self._batches[place // _BATCH], place % _BATCH
        return _example({n: batch.column(n)[row].as_py() for n in batch.schema.names})


class Joined(Sequence[Example]):
    """Several sets of examples, one behind the other."""

    def __init__(self, parts: Sequence[Sequence[Example]]) -> None:
        self.parts = tuple(parts)
        self._ends = list(itertools.accumulate(map(len, self.parts)))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        return _picked(index, len(self), self._at)

    def _at(self, place: int) -> Example:
        which = next(i for i, end in enumerate(self._ends) if place < end)
        return self.parts[which][place - self._ends[which] + len(self.parts[which])]


def _picked(
    index: int | slice, count: int, at: Callable[[int], Example]
) -> Example | list[Example]:
    """As a list has it: from the end below 0, IndexError beyond."""
    if isinstance(index, slice):
        return [at(i) for i in range(*index.indices(count))]
    place = index + count if index < 0 else index
    if not 0 <= place < count:
        raise IndexError(f"example {index} of {count}")
    return at(place)


def totals_of(examples: Sequence[Example]) -> ExampleTotals:
    """Counted, or as the table says."""
    if isinstance(examples, ExampleTable):
        return examples.totals
    if isinstance(examples, Joined):
        found = [asdict(totals_of(part)) for part in examples.parts]
        return ExampleTotals(
            **{name: sum(f[name] for f in found) for name in asdict(ExampleTotals())}
        )
    totals = ExampleTotals()
    for example in examples:
        totals.add(example)
    return totals


def fingerprint(examples: Sequence[Example]) -> str:
    """16 hexadecimal digits over all that training reads, in order; a table knows its own."""
    if isinstance(examples, ExampleTable):
        return examples.fingerprint
    digest = hashlib.sha256()
    for example in examples:
        _feed(digest, example)
    return digest.hexdigest()[:16]


def keep(
    key: Mapping[str, Any],
    draw: Callable[[dict[str, Any]], Iterator[Example]],
    *,
    folder: Path | None = None,
    in_memory: int = IN_MEMORY,
) -> tuple[Sequence[Example], dict[str, Any]]:
    """The examples that `draw` yields, in memory if they are few, else in a table; the counts.

    draw: fills the dict that it is given with counts, by the time it is used up.
    key: all that the examples depend on. A table of the same key is taken as it is.
    folder: where tables are kept; the cache where None. One process writes a table, others that
    want the same one wait for it.
    """
    name = text_digest(json.dumps({"format": FORMAT, **key}, sort_keys=True))
    path = (folder or cache_folder("examples")) / f"{name}.arrow"
    if about_path(path).exists():
        table = ExampleTable(path)
        return table, table.counts
    counts: dict[str, Any] = {}
    stream = draw(counts)
    first = list(itertools.islice(stream, in_memory + 1))
    if len(first) <= in_memory:
        return first, counts
    with alone(path):
        if not about_path(path).exists():  # another process may have been first
            write_table(path, itertools.chain(first, stream), counts)
    table = ExampleTable(path)
    return table, table.counts


def write_table(
    path: Path, examples: Iterable[Example], counts: Mapping[str, Any] | None = None
) -> None:
    """All examples into one table; `_BATCH` of them are in memory at a time.

    counts: kept beside them; read when the last example has come.
    """
    import pyarrow as pa

    digest, totals = hashlib.sha256(), ExampleTotals()
    with (
        atomic_path(path) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, _schema()) as writer,
    ):
        stream = iter(examples)
        while chunk := list(itertools.islice(stream, _BATCH)):
            for example in chunk:
                _feed(digest, example)
                totals.add(example)
            rows = [_fields(example) for example in chunk]
            writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=_schema()))
    about = {"fingerprint": digest.hexdigest()[:16], "totals": asdict(totals)}
    write_json(about_path(path), {"format": FORMAT, **about, "counts": dict(counts or {})})


def about_path(path: Path) -> Path:
    """The note that makes a file a whole table."""
    return path.with_suffix(".json")


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Waits until no other process on this machine writes `path`, and lets none begin."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.with_suffix(".lock").open("w")
    except OSError as error:
        raise DataError.at(path, None, f"cannot be written: {error.strerror or error}") from error
    with lock:
        locks.lock(lock.fileno(), wait=True)
        for cut_short in path.parent.glob(f".{path.name}.*.tmp"):  # of a writer that was killed
            cut_short.unlink(missing_ok=True)
        yield


def _schema() -> Any:
    import pyarrow as pa

    texts = pa.list_(pa.string())
    return pa.schema(
        [
            ("query_id", pa.string()),
            ("query", pa.string()),
            ("passage_ids", texts),
            ("passages", texts),
            ("grades", pa.list_(pa.int64())),
            ("teacher", pa.list_(pa.float64())),
        ]
    )


def _fields(example: Example) -> dict[str, Any]:
    group = example.group
    return {
        "query_id": group.query_id,
        "query": example.query,
        "passage_ids": group.passage_ids,
        "passages": example.passages,
        "grades": group.grades,
        "teacher": group.teacher,
    }


def _example(fields: Mapping[str, Any]) -> Example:
    teacher = fields["teacher"]
    group = Group(
        query_id=fields["query_id"],
        passage_ids=tuple(fields["passage_ids"]),
        grades=tuple(fields["grades"]),
        teacher=None if teacher is None else tuple(teacher),
    )
    return Example(group, fields["query"], tuple(fields["passages"]))


def _feed(digest: Any, example: Example) -> None:
    digest.update(repr((example.group, example.query, example.passages)).encode())
