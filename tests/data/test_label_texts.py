"""Labels know their texts: what has changed is scored again, the rest kept, and nothing that is of
other texts is learnt from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dear.artifacts import read_json, write_json
from dear.data.inputs import UNKNOWN, pair_digests, text_keys
from dear.data.label_texts import LabelCheck
from dear.data.labels import (
    FORMAT,
    Labels,
    Stamp,
    ensemble,
    labels_input,
    open_labels,
    open_store,
    read_labels,
    write_ensemble,
)
from dear.errors import ContractMismatch, DataError
from dear.records import Passage, Query

STAMP = Stamp(
    collection="c", teacher="t", revision="r1", fingerprint="f1", contract={"prompt": "dear"}
)


def digests(texts: Mapping[tuple[str, str], tuple[str, str]]) -> Any:
    return pair_digests(
        text_keys(q for q, _ in texts.values()), text_keys(p for _, p in texts.values())
    )


@given(st.text(max_size=5), st.text(max_size=5), st.text(max_size=5), st.text(max_size=5))
def test_a_pairs_digest_is_another_one_exactly_where_a_text_is(
    query: str, passage: str, query_now: str, passage_now: str
) -> None:
    one = pair_digests(text_keys([query]), text_keys([passage]))[0]
    other = pair_digests(text_keys([query_now]), text_keys([passage_now]))[0]
    assert (one == other) == ((query, passage) == (query_now, passage_now))
    assert one != UNKNOWN


def test_no_pair_has_the_digest_of_what_is_not_known() -> None:
    zero = np.zeros(1, dtype=np.uint64)
    assert pair_digests(zero, zero)[0] != UNKNOWN


def put(folder: Path, rows: Mapping[tuple[str, str], float], texts: int | None) -> None:
    with open_store(folder, STAMP) as store:
        known = None if texts is None else np.full(len(rows), texts, dtype=np.uint64)
        store.append(list(rows), np.array(list(rows.values()), dtype=np.float32), known)


def test_a_label_of_other_texts_takes_the_place_of_the_first(tmp_path: Path) -> None:
    put(tmp_path / "l", {("q", "a"): 1.0, ("q", "b"): 2.0}, texts=1)
    first = (tmp_path / "l" / "shard-000000.parquet").read_bytes()
    put(tmp_path / "l", {("q", "a"): 5.0}, texts=2)
    assert (tmp_path / "l" / "shard-000000.parquet").read_bytes() == first
    for found in (read_labels(tmp_path / "l"), open_labels(tmp_path / "l", small=0)):
        assert len(found) == 2
        assert found.of("q", ["a", "b"]).tolist() == [5.0, 2.0]
        assert found.texts_of("q", ["a", "b", "c"]).tolist() == [[2, 1, 0]]
    with pytest.raises(DataError, match="twice"):
        put(tmp_path / "l", {("q", "a"): 6.0}, texts=2)


def test_a_text_that_is_what_it_was_before_is_no_second_label(tmp_path: Path) -> None:
    for score, texts in ((1.0, 1), (2.0, 2), (3.0, 1)):
        put(tmp_path / "l", {("q", "a"): score, ("q", f"b{score}"): 0.0}, texts)
    for found in (read_labels(tmp_path / "l"), open_labels(tmp_path / "l", small=0)):
        assert found.of("q", ["a"]).tolist() == [3.0]
    put(tmp_path / "l", {("q", "a"): 4.0}, texts=2)
    assert read_labels(tmp_path / "l").of("q", ["a"]).tolist() == [4.0]


def test_a_pair_twice_in_one_shard_is_refused(tmp_path: Path) -> None:
    put(tmp_path / "l", {("q", "a"): 1.0}, texts=1)
    with pytest.raises(DataError, match="twice"), open_store(tmp_path / "l", STAMP) as store:
        store.append(
            [("q", "b"), ("q", "b")],
            np.zeros(2, dtype=np.float32),
            np.array([1, 2], dtype=np.uint64),
        )
    # of another writer
    shard = tmp_path / "l" / "shard-000000.parquet"
    table = pq.read_table(shard)
    pq.write_table(pa.concat_tables([table, table]), shard, write_page_checksum=True)
    for read in (read_labels, lambda folder: open_labels(folder, small=0)):
        with pytest.raises(DataError, match=r"shard-000000\.parquet.*'q'.*'a' has two labels"):
            read(tmp_path / "l")


def test_a_shards_number_is_never_used_again(tmp_path: Path) -> None:
    """Not even where the last shard was damaged and deleted, as the error says to."""
    folder = tmp_path / "l"
    for i in range(3):
        put(folder, {("q", f"p{i}"): 1.0}, texts=1)
    (folder / "shard-000002.parquet").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"shard-000002\.parquet: the shard is damaged, delete it"):
        put(folder, {("q", "x"): 1.0}, texts=1)
    (folder / "shard-000002.parquet").unlink()
    put(folder, {("q", "p2"): 7.0}, texts=1)
    names = sorted(p.name for p in folder.glob("*.parquet"))
    assert names == ["shard-000000.parquet", "shard-000001.parquet", "shard-000003.parquet"]
    assert read_labels(folder).of("q", ["p2"]).tolist() == [7.0]


def test_the_number_of_a_writer_that_was_killed_counts(tmp_path: Path) -> None:
    """It comes between the shard and the manifest."""
    folder = tmp_path / "l"
    put(folder, {("q", "a"): 1.0}, texts=1)
    write_json(folder / "manifest.json", {**read_json(folder / "manifest.json"), "next_shard": 0})
    put(folder, {("q", "b"): 1.0}, texts=1)
    assert read_json(folder / "manifest.json")["next_shard"] == 2
    assert len(read_labels(folder)) == 2


# -- stores of earlier versions --------------------------------------------------------------


def earlier(folder: Path, stamp: Stamp = STAMP) -> Path:
    """As `dear-labels/1` was written."""
    about = stamp.to_dict()
    write_json(folder / "manifest.json", {"format": "dear-labels/1", **about, "jobs": [{"a": 1}]})
    columns = [["q", "q"], ["a", "b"], np.array([1.0, 2.0], dtype=np.float32)]
    types = [pa.string(), pa.string(), pa.float32()]
    table = pa.table(
        [pa.array(c, t) for c, t in zip(columns, types, strict=True)],
        names=["query_id", "passage_id", "score"],
    ).replace_schema_metadata({"dear": json.dumps(about, sort_keys=True)})
    pq.write_table(
        table, folder / "shard-000000.parquet", compression="zstd", write_page_checksum=True
    )
    return folder


def test_an_earlier_store_is_read_and_knows_no_texts(tmp_path: Path) -> None:
    folder = earlier(tmp_path / "l")
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    for found in (read_labels(folder), open_labels(folder, small=0)):
        assert found.of("q", ["a", "b"]).tolist() == [1.0, 2.0]
        assert found.texts_of("q", ["a", "b"]).tolist() == [[0, 0]]
        assert found.stamps == (STAMP,)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_an_earlier_store_is_added_to_and_loses_nothing(tmp_path: Path) -> None:
    folder = earlier(tmp_path / "l")
    shard = (folder / "shard-000000.parquet").read_bytes()
    put(folder, {("q", "c"): 3.0, ("q", "a"): 9.0}, texts=4)
    assert (folder / "shard-000000.parquet").read_bytes() == shard
    manifest = read_json(folder / "manifest.json")
    assert (manifest["format"], manifest["next_shard"]) == (FORMAT, 2)
    assert manifest["jobs"] == [{"a": 1}]
    found = read_labels(folder)
    assert found.of("q", ["a", "b", "c"]).tolist() == [9.0, 2.0, 3.0]
    assert found.texts_of("q", ["a", "b", "c"]).tolist() == [[4, 0, 4]]


@pytest.mark.parametrize("same", [True, False])
def test_an_earlier_revision_is_compared_as_it_was_made(
    tmp_path: Path, same: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """What it could not see stays unverified; what it did see is refused."""
    folder = earlier(tmp_path / "l")
    asked: list[str] = []

    def former(digest: str) -> bool | None:
        asked.append(digest)
        return (same and digest == "r1") or None

    now = Stamp(
        collection="c",
        teacher="t",
        revision="whole",
        fingerprint="f1",
        contract={"prompt": "dear"},
        former=former,
    )
    if not same:
        with (
            pytest.raises(ContractMismatch, match="revision: 'r1' there, 'whole' now"),
            open_store(folder, now),
        ):
            pass
        assert read_json(folder / "manifest.json")["format"] == "dear-labels/1"
        return
    with open_store(folder, now) as store:
        store.append([("q", "c")], np.ones(1, dtype=np.float32), np.ones(1, dtype=np.uint64))
    assert set(asked) == {"r1"}
    assert "unverified" in caplog.text
    found = read_labels(folder)
    assert len(found) == 3
    assert found.stamps[0].revision == "whole"
    # the shards of before are still known for those of this store, others are not
    other = Stamp(collection="c", teacher="t", revision="r2", fingerprint="f1")
    put_other(tmp_path / "other", other)
    (tmp_path / "other" / "shard-000000.parquet").rename(folder / "shard-000007.parquet")
    with pytest.raises(ContractMismatch, match="shard-000007"):
        read_labels(folder)


def put_other(folder: Path, stamp: Stamp) -> None:
    with open_store(folder, stamp) as store:
        store.append([("q", "z")], np.ones(1, dtype=np.float32))


# -- compared with the texts at hand ---------------------------------------------------------

QUERIES = {"q": Query(id="q", text="what"), "r": Query(id="r", text="who")}
CORPUS = {i: Passage(id=i, title=f"t{i}", text=f"text {i}") for i in "abc"}


def labels_of(corpus: Mapping[str, Passage] = CORPUS, *, known: bool = True) -> Labels:
    pairs = {(q, p): (QUERIES[q].text, corpus[p].full_text) for q in QUERIES for p in ("a", "b")}
    found = digests(pairs).tolist() if known else [int(UNKNOWN)] * len(pairs)
    texts: dict[str, dict[str, int]] = {}
    for (q, p), digest in zip(pairs, found, strict=True):
        texts.setdefault(q, {})[p] = digest
    scores = {q: {"a": 1.0, "b": 2.0} for q in QUERIES}
    return Labels(scores, (STAMP,), (texts,))


def look_up(labels: Labels, corpus: Mapping[str, Passage], collection: str = "c") -> LabelCheck:
    check = LabelCheck(labels, ["some/labels"], collection)
    read = check.over_collection(QUERIES, corpus)
    for query_id in (*QUERIES, "unknown"):
        found = read.of(query_id, ["a", "b", "c", "nowhere"])
        assert np.array_equal(
            found, labels.of(query_id, ["a", "b", "c", "nowhere"]), equal_nan=True
        )
        assert len(read.of(query_id, [])) == 0
    return check


def test_labels_of_the_texts_at_hand_are_given(caplog: pytest.LogCaptureFixture) -> None:
    look_up(labels_of(), CORPUS).require()
    # a collection that was renamed has the same texts
    look_up(labels_of(), CORPUS, "another name").require()
    assert not caplog.records


@pytest.mark.parametrize("field", ["text", "title"])
def test_labels_of_other_texts_are_an_error_that_counts_them(field: str) -> None:
    changed = CORPUS | {"b": Passage(**{"id": "b", "title": "tb", "text": "text b", field: "new"})}
    with pytest.raises(DataError) as caught:
        look_up(labels_of(), changed).require()
    said = str(caught.value)
    assert "the labels of 2 pairs are of other texts than c has now" in said
    assert "query 'q' with passage 'b' first" in said
    assert "`dear label c -o some/labels`" in said


def test_what_is_not_looked_up_may_have_changed() -> None:
    changed = CORPUS | {"b": Passage(id="b", text="new")}
    check = LabelCheck(labels_of(), ["l"], "c")
    check.over_collection(QUERIES, changed).of("q", ["a"])
    check.require()


def test_one_member_of_an_ensemble_is_enough() -> None:
    changed = CORPUS | {"a": Passage(id="a", text="new")}
    both = ensemble([labels_of(), labels_of(changed)], [1.0, 1.0])
    for corpus in (CORPUS, changed):
        with pytest.raises(DataError, match="the labels of 2 pairs"):
            look_up(both, corpus).require()
    look_up(ensemble([labels_of(), labels_of()], [1.0, 1.0]), CORPUS).require()


def test_labels_that_do_not_say_are_unverified(caplog: pytest.LogCaptureFixture) -> None:
    look_up(labels_of(known=False), CORPUS).require()
    assert "some/labels: unverified" in caplog.text


def test_labels_that_do_not_say_and_are_of_another_collection_are_an_error() -> None:
    with pytest.raises(DataError, match="labels of collection 'c', not of 'beir'"):
        look_up(labels_of(known=False), CORPUS, "beir").require()


def test_the_digest_of_labels_is_over_what_they_are(tmp_path: Path) -> None:
    for name in ("one", "two"):
        put(tmp_path / name, {("q", "a"): 1.0}, texts=1)
    same = labels_input(tmp_path / "one")
    assert same.digest == labels_input(tmp_path / "two").digest
    with open_store(tmp_path / "one", STAMP) as store:
        store.record({"cost": 1})  # a note about a job is no label
    assert labels_input(tmp_path / "one").digest == same.digest
    put(tmp_path / "one", {("q", "a"): 2.0}, texts=2)
    assert labels_input(tmp_path / "one").digest != same.digest
    for folder, weight in ((tmp_path, 1.0), (tmp_path, 2.0)):
        write_ensemble(folder, {"one": 1.0, "two": weight})
        if weight == 1.0:
            before = labels_input(tmp_path).digest
    assert labels_input(tmp_path).digest != before
