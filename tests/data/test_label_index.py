"""The index of a label store answers as a dictionary of its rows does, whatever became of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dear.data import label_index, labels
from dear.data.inputs import UNKNOWN
from dear.data.label_index import (
    EMPTY,
    LabelIndex,
    Rows,
    TwoLabelsError,
    merged,
    merged_parts,
    query_keys,
)
from dear.data.labels import LabelsOnDisk, Stamp, open_labels, open_store, read_labels
from dear.data.table import id_keys

STAMP = Stamp(collection="c", teacher="t", revision="r", fingerprint="f")

Row = tuple[str, str, float, int]
ids = st.text("abc", max_size=2)
row = st.tuples(ids, ids, st.floats(-5, 5, width=32), st.integers(1, 3))


def rows_of(rows: list[Row]) -> Rows:
    return Rows.of(
        query_keys([r[0] for r in rows]),
        id_keys(r[1] for r in rows),
        np.array([r[2] for r in rows], dtype=np.float32),
        np.array([r[3] for r in rows], dtype=np.uint64),
    )


@given(st.lists(st.lists(row, max_size=12, unique_by=lambda r: r[:2]), max_size=6))
def test_the_latest_row_of_a_pair_counts(parts: list[list[Row]]) -> None:
    index, known = LabelIndex(), dict[tuple[str, str], tuple[float, int]]()
    for part in parts:
        rows = rows_of(part)
        if any(known.get((q, p), (0.0, 0))[1] == text for q, p, _, text in part):
            with pytest.raises(TwoLabelsError):
                index.count_new(rows)
            continue
        new = sum((q, p) not in known for q, p, *_ in part)
        assert index.count_new(rows) == new
        index.add(rows, new)
        known |= {(q, p): (score, text) for q, p, score, text in part}
    assert len(index) == len(known)
    asked = [(q, p) for q in ("", "a", "ab", "x") for p in ("", "b", "bc", "y")] + list(known)
    found, scores, texts = index.find(
        query_keys([q for q, _ in asked]), id_keys(p for _, p in asked)
    )
    for i, pair in enumerate(asked):
        assert bool(found[i]) == (pair in known)
        if pair in known:
            assert (scores[i], texts[i]) == known[pair]
        else:
            assert np.isnan(scores[i])
            assert texts[i] == UNKNOWN


@given(
    st.lists(row, max_size=30, unique_by=lambda r: r[:2]),
    st.lists(row.map(lambda r: (*r[:3], r[3] + 10)), max_size=30, unique_by=lambda r: r[:2]),
    st.integers(1, 7),
)
def test_parts_put_together_are_the_whole(earlier: list[Row], later: list[Row], size: int) -> None:
    a, b = rows_of(earlier), rows_of(later)
    whole = merged(a, b)
    together = EMPTY
    for part in merged_parts(a, b, size):
        assert not len(together) or not len(part) or together.queries[-1] < part.queries[0]
        together = merged(together, part)
    for name in ("queries", "starts", "passages", "scores", "texts"):
        assert np.array_equal(getattr(together, name), getattr(whole, name))


# -- the index of a store on disk ------------------------------------------------------------


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every index goes to disk, in a cache of its own."""
    monkeypatch.setenv("DEAR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(labels, "KEPT_ROWS", 1)
    monkeypatch.setattr(labels, "_SHARDS_AT_ONCE", 2)
    monkeypatch.setattr(labels, "_FLUSHED_ROWS", 40)
    return tmp_path / "cache" / "labels"


def fill(folder: Path, first: int, last: int, texts: int = 1) -> None:
    """Shards of 10 pairs; pair i is of query i // 25."""
    with open_store(folder, STAMP) as store:
        for start in range(first, last, 10):
            pairs = [(f"q{i // 25}", f"p{i}") for i in range(start, start + 10)]
            scores = np.arange(start, start + 10, dtype=np.float32) + texts * 1000
            store.append(pairs, scores, np.full(10, texts, dtype=np.uint64))


def agree(folder: Path) -> LabelsOnDisk:
    held, on_disk = read_labels(folder), open_labels(folder, small=0)
    assert isinstance(on_disk, LabelsOnDisk)
    assert len(on_disk) == len(held)
    pairs = [(q, p) for q, row in held.scores.items() for p in row]
    assert on_disk.of_batch(pairs).tolist() == [held.scores[q][p] for q, p in pairs]
    for q, row in held.scores.items():
        asked = [*row, "nothing"]
        assert np.array_equal(on_disk.of(q, asked), held.of(q, asked), equal_nan=True)
        assert np.array_equal(on_disk.texts_of(q, asked), held.texts_of(q, asked))
    return on_disk


def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found: list[str] = []
    inner = labels.read_shard

    def spy(path: Path, manifest: object) -> object:
        found.append(path.name)
        return inner(path, manifest)  # type: ignore[arg-type]

    monkeypatch.setattr(labels, "read_shard", spy)
    return found


def test_a_store_that_grows_and_changes(
    kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "l"
    fill(folder, 0, 100)
    assert len(agree(folder)) == 100
    read = reads(monkeypatch)
    open_labels(folder, small=0)
    with open_store(folder, STAMP) as store:
        assert len(store) == 100
    assert read == []  # all of it comes from the index
    fill(folder, 100, 150)
    fill(folder, 50, 80, texts=2)
    monkeypatch.undo()
    monkeypatch.setenv("DEAR_CACHE", str(kept.parent))
    assert len(agree(folder)) == 150
    assert agree(folder).of("q3", ["p75", "p80"]).tolist() == [2075.0, 1080.0]


@pytest.mark.parametrize(
    "change",
    ["index lost", "index damaged", "about damaged", "shard replaced", "shard gone", "store moved"],
)
def test_the_index_is_never_believed_over_the_shards(
    kept: Path, tmp_path: Path, change: str
) -> None:
    folder = tmp_path / "l"
    fill(folder, 0, 60)
    agree(folder)
    (place,) = kept.iterdir()
    if change == "index lost":
        shutil.rmtree(place)
    elif change == "index damaged":
        file = next(place.glob("*.scores"))
        file.write_bytes(file.read_bytes()[:-4])
    elif change == "about damaged":
        (place / "about.json").write_text("{")
    elif change == "shard replaced":
        fill(tmp_path / "other", 0, 10, texts=5)
        (tmp_path / "other" / "shard-000000.parquet").replace(folder / "shard-000000.parquet")
    elif change == "shard gone":
        (folder / "shard-000002.parquet").unlink()
    else:
        folder = folder.rename(tmp_path / "moved")
        fill(tmp_path / "l", 0, 10, texts=7)
        assert len(agree(tmp_path / "l")) == 10
    found = agree(folder)
    assert len(found) == (50 if change == "shard gone" else 60)
    assert found.of("q0", ["p3"]).tolist() == [5003.0 if change == "shard replaced" else 1003.0]


def test_an_index_that_is_written_anew_leaves_nothing_behind(kept: Path, tmp_path: Path) -> None:
    folder = tmp_path / "l"
    for first in range(0, 200, 50):
        fill(folder, first, first + 50)
        agree(folder)
    (place,) = kept.iterdir()
    assert len(list(place.iterdir())) == 6  # five columns, and what they are


def test_whoever_reads_an_index_keeps_it(kept: Path, tmp_path: Path) -> None:
    folder = tmp_path / "l"
    fill(folder, 0, 50)
    before = open_labels(folder, small=0)
    fill(folder, 0, 50, texts=2)
    assert before.of("q0", ["p3"]).tolist() == [1003.0]
    assert open_labels(folder, small=0).of("q0", ["p3"]).tolist() == [2003.0]


def test_a_cache_that_cannot_be_written_costs_only_time(
    kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DEAR_CACHE", str(tmp_path / "file"))
    fill(tmp_path / "l", 0, 100)
    agree(tmp_path / "l")


def test_old_pieces_of_an_index_are_cleared_away(
    kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "l"
    fill(folder, 0, 20)
    agree(folder)
    (place,) = kept.iterdir()
    (place / "dead.scores").write_bytes(b"of a writer that was killed")
    fill(folder, 20, 40)
    assert (place / "dead.scores").exists()  # it may be at work
    monkeypatch.setattr(label_index, "_is_old", lambda path: path.name.startswith("dead"))
    fill(folder, 40, 60)
    assert not (place / "dead.scores").exists()


@settings(max_examples=10)
@given(st.lists(st.text(max_size=3), unique=True, max_size=40))
def test_ids_keep_their_keys(names: list[str]) -> None:
    assert len(set(id_keys(names).tolist())) == len(names)
    assert query_keys([*names, *names]).tolist() == [*id_keys(names).tolist()] * 2
