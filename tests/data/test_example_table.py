"""Examples on disk are those in memory, whole or not there, and written by one process."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dear.data.example_table import (
    Example,
    ExampleTable,
    Joined,
    fingerprint,
    keep,
    totals_of,
    write_examples,
)
from dear.data.groups import Group
from dear.errors import DataError

NAMES = st.text(st.characters(codec="utf-8"), max_size=5)
SCORES = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def examples(draw: st.DrawFn) -> Example:
    n = draw(st.integers(2, 4))
    group = Group(
        query_id=draw(NAMES),
        passage_ids=tuple(draw(NAMES) for _ in range(n)),
        grades=tuple(draw(st.integers(0, 3)) for _ in range(n)),
        teacher=draw(st.none() | st.tuples(*[SCORES] * n)),
    )
    return Example(group, draw(NAMES), tuple(draw(NAMES) for _ in range(n)))


def numbered(count: int) -> list[Example]:
    return [
        Example(
            Group(query_id=f"q{i}", passage_ids=("a", "b"), grades=(i % 2, 0), teacher=None),
            f"query {i}",
            (f"passage {i}", "other"),
        )
        for i in range(count)
    ]


@given(held=st.lists(examples(), max_size=6))
def test_a_table_gives_back_what_was_written(
    held: list[Example], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("t") / "x.arrow"
    write_examples(path, held, {"rows": 7})
    table = ExampleTable(path)
    assert list(table) == held
    assert table[:] == held
    assert fingerprint(table) == fingerprint(held) == fingerprint(list(table))
    assert totals_of(table) == totals_of(held)
    assert table.counts == {"rows": 7}
    joined = Joined([held, table, []])
    assert list(joined) == held + held
    assert totals_of(joined) == totals_of(held + held)
    assert fingerprint(joined) == fingerprint(held + held)


def test_any_place_of_many_batches(tmp_path: Path) -> None:
    held = numbered(1300)
    write_examples(tmp_path / "x.arrow", held)
    table = ExampleTable(tmp_path / "x.arrow")
    for place in (0, 511, 512, 1023, 1024, 1299, -1, -1300):
        assert table[place] == held[place]
    for outside in (1300, -1301):
        with pytest.raises(IndexError):
            table[outside]
    assert list(pickle.loads(pickle.dumps(table))) == held
    assert copy.copy(table)[3] == held[3]


def drawing(held: list[Example], calls: list[int]) -> Any:
    def draw(counts: dict[str, Any]) -> Iterator[Example]:
        calls.append(1)
        yield from held
        counts["rows"] = len(held)

    return draw


def test_few_stay_in_memory_and_many_are_drawn_once(tmp_path: Path) -> None:
    held, calls = numbered(10), []
    few, counts = keep({"a": 1}, drawing(held, calls), folder=tmp_path, in_memory=10)
    assert few == held
    assert counts == {"rows": 10}
    assert not list(tmp_path.iterdir())
    many, counts = keep({"a": 1}, drawing(held, calls), folder=tmp_path, in_memory=9)
    assert isinstance(many, ExampleTable)
    assert list(many) == held
    assert counts == {"rows": 10}
    again, counts = keep({"a": 1}, drawing([], calls), folder=tmp_path, in_memory=9)
    assert list(again) == held
    assert counts == {"rows": 10}
    assert len(calls) == 2
    other, _ = keep({"a": 2}, drawing(held[:9], calls), folder=tmp_path, in_memory=5)
    assert list(other) == held[:9]


def test_what_failed_half_way_leaves_no_table(tmp_path: Path) -> None:
    def draw(counts: dict[str, Any]) -> Iterator[Example]:
        yield from numbered(600)
        raise DataError("row 601 is broken")

    with pytest.raises(DataError, match="601"):
        keep({}, draw, folder=tmp_path, in_memory=2)
    assert {p.suffix for p in tmp_path.iterdir()} <= {".lock"}
    # the note was not written when the process died: drawn again
    held, calls = numbered(5), []
    keep({}, drawing(held, calls), folder=tmp_path, in_memory=2)
    next(tmp_path.glob("*.json")).unlink()
    assert list(keep({}, drawing(held, calls), folder=tmp_path, in_memory=2)[0]) == held
    assert len(calls) == 2


def test_a_damaged_table_says_what_to_remove(tmp_path: Path) -> None:
    path = tmp_path / "x.arrow"
    write_examples(path, numbered(600))
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(DataError, match=r"x\.arrow: the table is damaged, remove it"):
        ExampleTable(path)


def _process(folder: Path, barrier: Any, out: Any) -> None:
    def draw(counts: dict[str, Any]) -> Iterator[Example]:
        (folder / f"drawn-{multiprocessing.current_process().pid}").touch()
        yield from numbered(900)

    barrier.wait()
    found, _ = keep({}, draw, folder=folder, in_memory=4)
    out.put((fingerprint(found), len(found)))


def test_several_processes_share_one_table(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier, out = context.Barrier(3), context.Queue()
    workers = [context.Process(target=_process, args=(tmp_path, barrier, out)) for _ in range(3)]
    for worker in workers:
        worker.start()
    found = [out.get(timeout=200) for _ in workers]
    for worker in workers:
        worker.join()
    assert set(found) == {(fingerprint(numbered(900)), 900)}
    assert len(list(tmp_path.glob("*.arrow"))) == 1
    assert not list(tmp_path.glob(".*.tmp"))
