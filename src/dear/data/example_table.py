"""Training examples on disk: written once, read by index from a memory-mapped Arrow file.

KEY says what the examples were drawn from, so that a training that goes on, and every
process of one, finds the table instead of drawing again.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, overload

import pyarrow as pa

from dear.artifacts import cache_folder
from dear.data.groups import Group
from dear.data.table import Table, damaged, is_table, write_once, write_table
from dear.digests import text_digest

FORMAT = "dear-examples/1"
IN_MEMORY = 4096
"""Examples up to this number are kept in memory, and no file is written."""

_BATCH = 512
_GROUP = tuple(field.name for field in fields(Group))


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


class _Examples(Sequence[Example]):
    """Indexed and sliced as a list is."""

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return [self._at(i) for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        return self._at(index % len(self))

    @abstractmethod
    def _at(self, index: int) -> Example:
        """The example at a position, counted from 0."""


class ExampleTable(_Examples):
    """A table of examples. DataError: no table there, or a damaged one."""

    def __init__(self, path: Path) -> None:
        self._table = Table(path, FORMAT)
        note = self._table.note
        self.fingerprint = str(note["fingerprint"])
        self.totals = ExampleTotals(**note["totals"])
        self.counts: dict[str, Any] = note["counts"]
        if len(self._table) != self.totals.groups:
            raise damaged(path, "rows are missing")

    def __len__(self) -> int:
        return self.totals.groups

    def __reduce__(self) -> tuple[type[ExampleTable], tuple[Path]]:
        return ExampleTable, (self._table.path,)  # a worker process maps the file anew

    def _at(self, index: int) -> Example:
        return _example(self._table.row(index))


class Joined(_Examples):
    """Several sets of examples, one behind the other."""

    def __init__(self, parts: Sequence[Sequence[Example]]) -> None:
        self.parts = tuple(parts)
        self._ends = list(itertools.accumulate(map(len, self.parts)))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def _at(self, index: int) -> Example:
        which = next(i for i, end in enumerate(self._ends) if index < end)
        return self.parts[which][index - self._ends[which]]


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
    if not is_table(path):
        counts: dict[str, Any] = {}
        stream = draw(counts)
        first = list(itertools.islice(stream, in_memory + 1))
        if len(first) <= in_memory:
            return first, counts
        write_once(path, lambda: write_examples(path, itertools.chain(first, stream), counts))
    table = ExampleTable(path)
    return table, table.counts


def write_examples(
    path: Path, examples: Iterable[Example], counts: Mapping[str, Any] | None = None
) -> None:
    """All examples into one table; `_BATCH` of them are in memory at a time.

    counts: for the note; read when the last example has come.
    """
    digest, totals = hashlib.sha256(), ExampleTotals()

    def rows() -> Iterator[dict[str, Any]]:
        for example in examples:
            _feed(digest, example)
            totals.add(example)
            yield _fields(example)

    def note() -> dict[str, Any]:
        found = {"fingerprint": digest.hexdigest()[:16], "totals": asdict(totals)}
        return {"format": FORMAT, **found, "counts": dict(counts or {})}

    write_table(path, _schema(), rows(), note, batch=_BATCH)


def _schema() -> Any:
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
    group = {name: getattr(example.group, name) for name in _GROUP}
    return {**group, "query": example.query, "passages": example.passages}


def _example(row: Mapping[str, Any]) -> Example:
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in row.items()}
    query, passages = values.pop("query"), values.pop("passages")
    return Example(Group(**values), query, passages)


def _feed(digest: Any, example: Example) -> None:
    digest.update(repr((example.group, example.query, example.passages)).encode())
