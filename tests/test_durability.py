"""What is said to be done outlives a power cut; a name never appears before its bytes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dear.artifacts import atomic_path, write_json
from dear.backends import Completion
from dear.backends.ledger_file import LedgerFile
from dear.data.formats import write_run
from dear.data.labels import Stamp, open_store
from dear.reason.generate import Drafts
from dear.records import Ranking
from dear.train.checkpoint_files import WHOLE, mark_complete
from power import Disk

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs Linux's /proc")


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def labels(path: Path) -> None:
    stamp = Stamp(collection="c", teacher="t", revision="1", fingerprint="f")
    with open_store(path.parent, stamp) as store:
        store.append([("q", "p")], np.ones(1, dtype=np.float32))
    assert [p.name for p in path.parent.glob("*.parquet")] == [path.name]


def text(path: Path) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text("some bytes")


WRITERS: dict[str, Callable[[Path], None]] = {
    "file.txt": text,
    "values.json": lambda path: write_json(path, {"a": 1}),
    "run.trec.gz": lambda path: write_run(
        path, {"q": Ranking(query_id="q", passage_ids=("p",), scores=(1.0,))}, "tag"
    ),
    "shard-000000.parquet": labels,
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_is_on_the_disk_before_it_has_its_name(
    name: str, tmp_path: Path, disk: Disk
) -> None:
    """Else a power cut may leave an empty file where the earlier one was."""
    seen: list[str] = []

    def check(temporary: Path) -> None:
        assert disk.holds_bytes(temporary)
        assert temporary.stat().st_size > 0
        seen.append(temporary.name)

    disk.before_a_name_is_given(check)
    WRITERS[name](tmp_path / name)
    assert any(name in temporary for temporary in seen)
    # and when the writer returns, so is the name
    assert disk.holds(tmp_path / name)


def test_a_file_that_is_replaced_is_never_less_than_the_earlier_one(
    tmp_path: Path, disk: Disk
) -> None:
    path = tmp_path / "file.txt"
    path.write_text("earlier")
    disk.before_a_name_is_given(lambda _: path.read_text() == "earlier" or pytest.fail("too early"))
    text(path)
    assert path.read_text() == "some bytes"
    assert disk.holds(path)


def test_an_answer_is_on_the_disk_before_anybody_hears_of_it(tmp_path: Path, disk: Disk) -> None:
    path = tmp_path / "answers.jsonl"
    ledger = LedgerFile(path)
    assert disk.holds(path)
    for key in ("a", "b"):
        ledger.add(key, "query", Completion(text=f"answer {key}"))
        assert disk.holds(path)
    ledger.begin_batch("n", ["c", "d"])
    assert disk.holds(path)
    ledger.name_batch("n", "batch-1")
    assert disk.holds(path)
    with ledger.unsynced():
        before = disk.syncs
        ledger.add("c", "query", Completion(text="can be had again"))
        assert disk.syncs == before
    ledger.end_batch("n")
    assert disk.holds(path)
    ledger.close()
    assert list(LedgerFile(path).answers) == ["a", "b", "c"]


def test_a_ledger_that_was_cut_short_is_on_the_disk_as_it_is_read(
    tmp_path: Path, disk: Disk
) -> None:
    path = tmp_path / "answers.jsonl"
    ledger = LedgerFile(path)
    ledger.add("a", "query", Completion(text="answer"))
    ledger.close()
    path.write_bytes(path.read_bytes()[:-1])  # all of the last line but its end
    ledger = LedgerFile(path)
    assert list(ledger.answers) == ["a"]
    assert disk.holds_bytes(path)
    ledger.close()


def test_without_sync_nothing_waits_for_the_disk(tmp_path: Path, disk: Disk) -> None:
    ledger = LedgerFile(tmp_path / "answers.jsonl", sync=False)
    ledger.add("a", "query", Completion(text="answer"))
    ledger.close()
    assert disk.syncs == 0


def test_drafts_are_on_the_disk_when_they_are_added(tmp_path: Path, disk: Disk) -> None:
    path = tmp_path / "drafts.jsonl"
    drafts = Drafts(path)
    for key in ("a", "b"):
        drafts.append({key: {"value": 1}})
        assert disk.holds(path)


def test_a_checkpoint_is_marked_when_all_of_it_is_on_the_disk(tmp_path: Path, disk: Disk) -> None:
    folder = tmp_path / "checkpoint-1"
    (folder / "deeper").mkdir(parents=True)
    paths = [folder / "model.safetensors", folder / "deeper" / "config.json"]
    for path in paths:
        path.write_bytes(os.urandom(100))

    def check(temporary: Path) -> None:
        assert all(disk.holds(path) for path in paths)
        assert disk.holds_name(folder)

    disk.before_a_name_is_given(check)
    mark_complete(folder)
    assert disk.holds(folder / WHOLE)
