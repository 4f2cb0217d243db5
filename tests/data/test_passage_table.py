"""Passages and labels by id on disk are those in memory."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dear.data import passage_table
from dear.data.collections import open_passages
from dear.data.labels import LabelsOnDisk, Stamp, open_labels, open_store, read_labels
from dear.data.passage_table import PassageTable, write_passages
from dear.errors import DataError
from dear.records import Passage

NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=4)


@given(texts=st.dictionaries(NAMES, st.tuples(NAMES, NAMES), min_size=1), again=st.integers(0, 3))
def test_a_table_is_the_mapping_that_was_written(
    texts: dict[str, tuple[str, str]], again: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    held = {i: Passage(id=i, title=title, text=text) for i, (title, text) in texts.items()}
    path = tmp_path_factory.mktemp("t") / "x.arrow"
    write_passages(path, [*held.values(), *list(held.values())[:again]], "x")
    table = PassageTable(path)
    assert dict(table) == held
    assert table.get("not there at all") is None
    assert len(table) == len(held)


def test_one_id_with_two_texts_is_an_error(tmp_path: Path) -> None:
    two = [Passage(id="p", text="a"), Passage(id="q", text="a"), Passage(id="p", text="b")]
    with pytest.raises(DataError, match="rows: passage 3 has the id of an earlier one"):
        write_passages(tmp_path / "x.arrow", two, "rows")
    assert not list(tmp_path.glob("*.json"))
    with pytest.raises(DataError, match="rows: passage 'p' is there with two texts"):
        passage_table.in_memory(two, "rows")


def test_a_corpus_file_is_read_alike_in_memory_and_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "corpus.jsonl"
    rows = [{"docid": f"p{i}", "document_text": f"text {i}"} for i in range(3000)]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    small = open_passages(str(path), tmp_path / "t")
    assert isinstance(small, dict)
    monkeypatch.setattr(passage_table, "SMALL_BYTES", 10)
    large = open_passages(str(path), tmp_path / "t")
    assert isinstance(large, PassageTable)
    assert dict(large) == small
    written = sorted((tmp_path / "t").iterdir())
    assert dict(open_passages(str(path), tmp_path / "t")) == small
    assert sorted((tmp_path / "t").iterdir()) == written
    path.write_text(json.dumps({"docid": "new", "text": "new"}), encoding="utf-8")
    assert list(open_passages(str(path), tmp_path / "t")) == ["new"]
    # and so is one that has changed and kept its size
    before = path.stat()
    path.write_text(json.dumps({"docid": "now", "text": "old"}), encoding="utf-8")
    assert path.stat().st_size == before.st_size
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 10**9))
    assert list(open_passages(str(path), tmp_path / "t")) == ["now"]


def test_many_labels_are_those_that_were_written(tmp_path: Path) -> None:
    stamp = Stamp(collection="c", teacher="t", revision="1", fingerprint="f")
    dice = np.random.default_rng(1)
    pairs = [(f"q{q}", f"p{p}") for q in range(20) for p in range(30) if (q + p) % 3]
    with open_store(tmp_path / "l", stamp) as store:
        for first in range(0, len(pairs), 100):
            shard = pairs[first : first + 100]
            store.append(shard, dice.normal(size=len(shard)).astype(np.float32))
    held = read_labels(tmp_path / "l").scaled(3.3)
    table = open_labels(tmp_path / "l", 3.3, small=0)
    assert isinstance(table, LabelsOnDisk)
    assert len(table) == len(pairs) == len(held)
    for q in range(21):
        ids = [f"p{p}" for p in range(31)]
        assert np.array_equal(table.of(f"q{q}", ids), held.of(f"q{q}", ids), equal_nan=True)
    # a store that has grown is read anew
    with open_store(tmp_path / "l", stamp) as store:
        store.append([("q0", "new")], np.array([1.5], dtype=np.float32))
    grown = open_labels(tmp_path / "l", 2.0, small=0)
    assert grown.of("q0", ["new"]).tolist() == [3.0]


def test_labels_that_were_made_again_are_read_again(tmp_path: Path) -> None:
    """By another version of the same teacher, say: every file has its old name and size."""
    stamp = Stamp(collection="c", teacher="t", revision="1", fingerprint="f")
    found, sizes = [], []
    for score in (1.5, -2.5):
        for shard in tmp_path.glob("l/*.parquet"):
            shard.unlink()
        with open_store(tmp_path / "l", stamp) as store:
            store.append([("q", "p")], np.array([score], dtype=np.float32))
        for shard in tmp_path.glob("l/*.parquet"):
            os.utime(shard, ns=(0, 10**18 + len(found)))
        sizes.append([p.stat().st_size for p in tmp_path.glob("l/*.parquet")])
        found += open_labels(tmp_path / "l", 1.0, small=0).of("q", ["p"]).tolist()
    assert sizes[0] == sizes[1]
    assert found == [1.5, -2.5]
