"""The label store: append-only, atomic, stamped; and how labels are read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dear.characters import harmful_in_id
from dear.data.labels import (
    Labels,
    PairId,
    Stamp,
    ensemble,
    labels_input,
    open_store,
    read_labels,
    write_ensemble,
    z_scores,
)
from dear.errors import ConfigError, ContractMismatch, DataError
from dear.records import Ranking

STAMP = Stamp(
    collection="c",
    teacher="t",
    revision="r1",
    fingerprint="f1",
    contract={"prompt": "dear", "max_tokens": 512},
)


def write(folder: Path, rows: dict[PairId, float], stamp: Stamp = STAMP) -> Path:
    with open_store(folder, stamp) as store:
        store.append(list(rows), np.array(list(rows.values()), dtype=np.float32))
    return folder


def one_second_later(folder: Path) -> None:
    """The labels were written then: two changes within a clock's tick would have one time."""
    for path in folder.glob("*.parquet"):
        about = path.stat()
        os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns + 10**9))


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.name != ".lock"}


def shard_files(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in files(folder).items() if name.endswith(".parquet")}


finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
ids = st.text(min_size=1, max_size=8).filter(lambda t: bool(t.strip()) and harmful_in_id(t) is None)


@settings(max_examples=25)
@given(
    rows=st.dictionaries(st.tuples(ids, ids), finite, min_size=1, max_size=20),
    cut=st.integers(0, 20),
)
def test_what_is_written_is_read(rows: dict[PairId, float], cut: int) -> None:
    pairs, scores = list(rows), np.array(list(rows.values()), dtype=np.float32)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "labels"
        with open_store(folder, STAMP) as store:
            store.append(pairs[:cut], scores[:cut])
            store.append(pairs[cut:], scores[cut:])
        labels = read_labels(folder)
        with open_store(folder, STAMP) as store:
            assert len(store) == len(rows)
            assert all(pair in store for pair in pairs)
    assert len(labels) == len(rows)
    assert labels.stamps == (STAMP,)
    for (query_id, passage_id), score in zip(pairs, scores, strict=True):
        assert labels.of(query_id, [passage_id]).tolist() == [score]


def test_lone_surrogates_are_no_ids(tmp_path: Path) -> None:
    """What UTF-8 can not hold is refused before anything is written."""
    with (
        pytest.raises(DataError, match="no valid text"),
        open_store(tmp_path / "l", STAMP) as store,
    ):
        store.append([("\ud800", "p")], np.zeros(1, dtype=np.float32))
    assert len(read_labels(tmp_path / "l")) == 0


def test_shards_are_added_and_never_changed(tmp_path: Path) -> None:
    folder = write(tmp_path / "l", {("q", "a"): 1.0})
    before = files(folder)
    write(folder, {("q", "b"): 2.0})
    after = files(folder)
    assert set(after) == {"manifest.json", "shard-000000.parquet", "shard-000001.parquet"}
    assert after["shard-000000.parquet"] == before["shard-000000.parquet"]
    assert read_labels(folder).of("q", ["b", "a", "c"]).tolist()[:2] == [2.0, 1.0]
    assert np.isnan(read_labels(folder).of("q", ["c"])).all()


def test_a_shard_says_whose_it_is(tmp_path: Path) -> None:
    folder = write(tmp_path / "l", {("q", "a"): 1.0})
    schema = pq.read_schema(folder / "shard-000000.parquet")
    assert schema.names == ["query_id", "passage_id", "score", "texts"]
    assert schema.field("score").type == pa.float32()
    assert schema.field("texts").type == pa.uint64()
    assert json.loads(schema.metadata[b"dear"])["teacher"] == "t"
    assert json.loads((folder / "manifest.json").read_text())["contract"] == STAMP.contract


@pytest.mark.parametrize(
    ("scores", "problem"),
    [
        ([1.0, np.nan], "query 'q', passage 'b': nan"),
        ([np.inf, 0.0], "passage 'a': inf"),
        ([0.0, -np.inf], "passage 'b': -inf"),
    ],
)
def test_a_score_that_is_not_finite_is_refused_whole(
    tmp_path: Path, scores: list[float], problem: str
) -> None:
    with pytest.raises(DataError, match=problem), open_store(tmp_path / "l", STAMP) as store:
        store.append([("q", "a"), ("q", "b")], np.array(scores, dtype=np.float32))
    assert list(files(tmp_path / "l")) == ["manifest.json"]


def test_a_pair_is_labelled_once(tmp_path: Path) -> None:
    one = np.zeros(1, dtype=np.float32)
    with open_store(tmp_path / "l", STAMP) as store:
        with pytest.raises(DataError, match="twice"):
            store.append([("q", "a"), ("q", "a")], np.zeros(2, dtype=np.float32))
        store.append([("q", "a")], one)
        with pytest.raises(DataError, match="twice"):
            store.append([("q", "a")], one)
        with pytest.raises(DataError, match="2 pairs, 1 scores"):
            store.append([("q", "b"), ("q", "c")], one)
        store.append([], np.zeros(0, dtype=np.float32))
    assert len(files(tmp_path / "l")) == 2


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (replace(STAMP, collection="d"), "collection: 'c' there, 'd' now"),
        (replace(STAMP, teacher="u"), "teacher: 't' there, 'u' now"),
        (replace(STAMP, revision="r2"), "revision: 'r1' there, 'r2' now"),
        (
            replace(STAMP, fingerprint="f2", contract={"prompt": "dear", "max_tokens": 228}),
            "contract.max_tokens: 512 there, 228 now",
        ),
        (replace(STAMP, fingerprint="f2"), "contract: 'f1' there, 'f2' now"),
    ],
)
def test_other_labels_are_refused_with_the_difference(
    tmp_path: Path, other: Stamp, difference: str
) -> None:
    folder = write(tmp_path / "l", {("q", "a"): 1.0})
    before = files(folder)
    with pytest.raises(ContractMismatch) as caught, open_store(folder, other):
        pass
    assert difference in str(caught.value)
    assert files(folder) == before


def test_the_name_of_a_contract_is_no_difference(tmp_path: Path) -> None:
    named = replace(STAMP, contract={**STAMP.contract, "name": "mine"})
    folder = write(tmp_path / "l", {("q", "a"): 1.0}, named)
    write(folder, {("q", "b"): 1.0})
    assert len(read_labels(folder)) == 2


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "l"
    code = f"""
import sys
from dear.characters import harmful_in_id
from dear.data.labels import Stamp, open_store
from dear.errors import DataError
from pathlib import Path
try:
    with open_store(Path({str(folder)!r}), Stamp(**{_fields(STAMP)!r})):
        print("in")
except DataError as error:
    print(error)
"""

    def second() -> str:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    with open_store(folder, STAMP) as store:
        assert "another process is writing labels here" in second()
        store.append([("q", "a")], np.ones(1, dtype=np.float32))
    assert second() == "in"
    assert len(read_labels(folder)) == 1


def _fields(stamp: Stamp) -> dict[str, object]:
    return {name: getattr(stamp, name) for name in stamp.__dataclass_fields__}


def damages() -> Sequence[tuple[str, object]]:
    return [
        ("cut", lambda data: data[: len(data) // 2]),
        ("empty", lambda data: b""),
        ("a byte of a page", lambda data: _flipped(data, 40)),
        ("other bytes", lambda data: b"x" * len(data)),
    ]


def _flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


@pytest.mark.parametrize("damage", [d for _, d in damages()], ids=[n for n, _ in damages()])
def test_a_damaged_shard_is_named(tmp_path: Path, damage: object) -> None:
    folder = write(tmp_path / "l", {("q", f"p{i}"): float(i) for i in range(50)})
    shard = folder / "shard-000000.parquet"
    shard.write_bytes(damage(shard.read_bytes()))  # type: ignore[operator]
    with pytest.raises(DataError, match=r"shard-000000\.parquet: the shard is damaged"):
        read_labels(folder)
    with (
        pytest.raises(DataError, match=r"shard-000000\.parquet: the shard is damaged"),
        open_store(folder, STAMP),
    ):
        pass


def test_no_flipped_byte_changes_a_score_unseen(tmp_path: Path) -> None:
    """Wherever a disk errs, the labels are right or refused."""
    folder = write(tmp_path / "l", {("q", f"p{i}"): float(i) for i in range(20)})
    shard = folder / "shard-000000.parquet"
    data, whole = shard.read_bytes(), read_labels(folder)
    refused = 0
    for at in range(0, len(data), 7):
        shard.write_bytes(_flipped(data, at))
        try:
            assert read_labels(folder).scores == whole.scores
        except (DataError, ContractMismatch):
            refused += 1
    assert refused > len(data) // 7 // 2


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_damaged_shard_is_deleted_and_labelled_again(tmp_path: Path, place: int) -> None:
    """As the error advises: nothing but that shard's labels is lost, wherever it stands."""
    rows: dict[PairId, float] = {("q", f"p{i}"): float(i) for i in range(6)}
    folder = tmp_path / "l"
    for first in (0, 2, 4):
        write(folder, dict(list(rows.items())[first : first + 2]))
    shards = sorted(folder.glob("*.parquet"))
    assert len(shards) == 3
    shards[place].write_bytes(shards[place].read_bytes()[:-9])
    with pytest.raises(DataError, match=rf"{shards[place].name}: .*delete it and label again"):
        read_labels(folder)
    shards[place].unlink()
    with open_store(folder, STAMP) as store:
        lost = [pair for pair in rows if pair not in store]
        assert lost == list(rows)[2 * place : 2 * place + 2]
    kept = shard_files(folder)
    for pair in lost:  # the second would take the place of what the first left free
        write(folder, {pair: rows[pair]})
    assert {n: data for n, data in shard_files(folder).items() if n in kept} == kept
    labels = read_labels(folder)
    assert labels.of("q", [p for _, p in rows]).tolist() == list(rows.values())


def test_labels_that_changed_have_another_identity(tmp_path: Path) -> None:
    """Even where the sizes of all shards stay."""
    folder = write(tmp_path / "l", {("q", "a"): 1.0})
    before, sizes = labels_input(folder), [*map(len, shard_files(folder).values())]
    assert labels_input(folder).digest == before.digest
    for shard in folder.glob("*.parquet"):
        shard.unlink()
    write(folder, {("q", "a"): 2.0})
    assert [*map(len, shard_files(folder).values())] == sizes
    one_second_later(folder)
    assert labels_input(folder).digest != before.digest
    write(folder, {("q", "b"): 2.0})
    grown = labels_input(folder)
    write_ensemble(tmp_path / "both", {"a": 1.0})
    write(tmp_path / "both" / "a", {("q", "a"): 1.0})
    alone = labels_input(tmp_path / "both")
    write_ensemble(tmp_path / "both", {"a": 2.0})
    assert len({i.digest for i in (before, grown, alone, labels_input(tmp_path / "both"))}) == 4


def test_a_file_of_another_kind_is_no_shard(tmp_path: Path) -> None:
    folder = write(tmp_path / "l", {("q", "a"): 1.0})
    pq.write_table(pa.table({"x": [1]}), folder / "shard-000001.parquet")
    with pytest.raises(DataError, match=r"shard-000001\.parquet"):
        read_labels(folder)


def test_a_shard_of_another_store_is_refused(tmp_path: Path) -> None:
    mine = write(tmp_path / "mine", {("q", "a"): 1.0})
    other = write(tmp_path / "other", {("q", "b"): 1.0}, replace(STAMP, revision="r2"))
    (other / "shard-000000.parquet").rename(mine / "shard-000001.parquet")
    with pytest.raises(ContractMismatch, match=r"shard-000001.*revision: 'r2' there, 'r1' now"):
        read_labels(mine)


def test_two_labels_of_one_pair_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "l", {("q", "a"): 1.0, ("q", "b"): 2.0})
    (folder / "shard-000001.parquet").write_bytes((folder / "shard-000000.parquet").read_bytes())
    with pytest.raises(DataError, match=r"shard-000001\.parquet.*'q'.*'a' has two labels"):
        read_labels(folder)
    with pytest.raises(DataError, match=r"shard-000001\.parquet"), open_store(folder, STAMP):
        pass


def test_what_a_killed_writer_left_is_ignored_and_removed(tmp_path: Path) -> None:
    folder = write(tmp_path / "l", {("q", "a"): 1.0})
    left = folder / ".shard-000001.parquet.0a1b2c.tmp"
    left.write_bytes(b"half a shard")
    assert len(read_labels(folder)) == 1
    write(folder, {("q", "b"): 1.0})
    assert not left.exists()
    assert len(read_labels(folder)) == 2


def test_a_folder_without_a_manifest(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no labels"):
        read_labels(tmp_path)
    with pytest.raises(DataError, match="holds no labels"):
        read_labels(tmp_path / "nowhere")
    folder = write(tmp_path / "l", {("q", "a"): 1.0})
    (folder / "manifest.json").unlink()
    with pytest.raises(DataError, match=r"shards but no manifest\.json"), open_store(folder, STAMP):
        pass


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"format": "other/1"}', "not of format dear-labels/2"),
        ('{"format": "dear-labels/1", "teacher": "t"}', "not a label manifest"),
        ("{", "broken JSON"),
    ],
)
def test_a_broken_manifest_is_named(tmp_path: Path, text: str, problem: str) -> None:
    folder = write(tmp_path / "l", {("q", "a"): 1.0})
    (folder / "manifest.json").write_text(text)
    with pytest.raises(DataError, match=rf"manifest\.json.*{problem}"):
        read_labels(folder)


def test_missing_counts_the_pairs_of_a_run() -> None:
    labels = Labels({"q": {"a": 1.0}})
    run = {
        "q": Ranking(query_id="q", passage_ids=("a", "b"), scores=(1.0, 0.0)),
        "r": Ranking(query_id="r", passage_ids=("a",), scores=(1.0,)),
    }
    assert labels.missing(run) == 2
    assert ("q", "a") in labels
    assert ("q", "b") not in labels
    assert "q" not in labels
    assert len(labels) == 1


def test_scaled_multiplies() -> None:
    labels = Labels({"q": {"a": 1.5, "b": -1.0}}, (STAMP,)).scaled(20.0)
    assert labels.of("q", ["a", "b"]).tolist() == [30.0, -20.0]
    assert labels.stamps == (STAMP,)


@given(
    values=st.lists(st.floats(-100, 100), min_size=1, max_size=9),
    shift=st.floats(-50, 50),
    factor=st.floats(0.1, 10),
)
def test_z_scores_forget_scale_and_place(values: list[float], shift: float, factor: float) -> None:
    z = z_scores(np.array(values))
    if np.std(values) > 1e-3:
        moved = z_scores(np.array(values) * factor + shift)
        assert np.allclose(z, moved, atol=1e-6)
        assert abs(z.mean()) < 1e-9
        assert z.std() == pytest.approx(1.0)
    else:
        assert np.abs(z).max() < np.sqrt(len(values)) + 1e-6
    assert z_scores(np.full(3, 7.0)).tolist() == [0.0, 0.0, 0.0]


def test_an_ensemble_is_the_weighted_sum_of_z_scores_over_what_all_labelled() -> None:
    one = Labels({"q": {"a": 0.0, "b": 2.0, "only": 99.0}, "r": {"a": 1.0}}, (STAMP,))
    two = Labels({"q": {"b": -30.0, "a": 10.0, "other": 5.0}}, (STAMP, STAMP))
    both = ensemble([one, two], [1.0, 3.0])
    assert both.scores == {"q": {"a": pytest.approx(2.0), "b": pytest.approx(-2.0)}}
    assert len(both.stamps) == 3
    with pytest.raises(ConfigError, match="2 members of an ensemble, 1 weights"):
        ensemble([one, two], [1.0])
    with pytest.raises(ConfigError, match="0 members"):
        ensemble([], [])


def test_a_folder_of_stores_reads_as_one_teacher(tmp_path: Path) -> None:
    write(tmp_path / "both" / "a", {("q", "x"): 0.0, ("q", "y"): 1.0})
    write(tmp_path / "both" / "b", {("q", "x"): 5.0, ("q", "y"): 3.0}, replace(STAMP, teacher="u"))
    write_ensemble(tmp_path / "both", {"a": 1.0, "b": 0.25})
    labels = read_labels(tmp_path / "both")
    assert labels.of("q", ["x", "y"]).tolist() == pytest.approx([-0.75, 0.75])
    assert [s.teacher for s in labels.stamps] == ["t", "u"]
    # and takes no labels of its own, which nobody would ever read
    with pytest.raises(DataError, match="is an ensemble"), open_store(tmp_path / "both", STAMP):
        pass
    (tmp_path / "both" / "ensemble.json").write_text('{"members": {}}')
    with pytest.raises(DataError, match="names no members"):
        read_labels(tmp_path / "both")


def test_a_store_does_not_become_an_ensemble(tmp_path: Path) -> None:
    folder = write(tmp_path / "l", {("q", "a"): 1.0})
    with pytest.raises(DataError, match="holds labels itself"):
        write_ensemble(folder, {"a": 1.0})
    assert len(read_labels(folder)) == 1


def test_the_store_of_a_full_disk_stays_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path / "l", {("q", "a"): 1.0})
    before = files(folder)

    def full(*_args: object, **_kwargs: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(DataError, match="No space left"):
        write(folder, {("q", "b"): 1.0})
    assert files(folder) == before
