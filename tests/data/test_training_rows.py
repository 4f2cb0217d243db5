"""Training rows as a stream: every layout and kind of file, and what is wrong with them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dear.data.example_table import Example
from dear.data.groups import GroupPlan
from dear.data.row_groups import RowSampling
from dear.data.training_rows import open_rows
from dear.errors import ConfigError, DataError
from dear.records import Passage, Ranking

PLAN = GroupPlan(size=4, negatives="hardest")


def passage(name: str, text: str = "", **more: Any) -> dict[str, Any]:
    spelt = name.replace("+", " plus ").replace("-", " minus ")
    return {"docid": name, "title": "", "text": text or f"text of {spelt}", **more}


def row(number: int, *, positives: int = 1, negatives: int = 5) -> dict[str, Any]:
    return {
        "query_id": f"q{number}",
        "query": f"question {number}?",
        "positive_passages": [passage(f"{number}+{i}") for i in range(positives)],
        "negative_passages": [passage(f"{number}-{i}") for i in range(negatives)],
    }


def jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    text = "".join(json.dumps(r) + "\n" for r in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def sampled(path: Path | str, plan: GroupPlan = PLAN, **options: Any) -> tuple[list[Example], Any]:
    counts: dict[str, Any] = {}
    sampling = RowSampling(name="x", plan=plan, **options)
    return list(sampling(open_rows(str(path)).read(), counts)), counts


ROWS = [row(i) for i in range(7)]


def test_files_of_every_kind_hold_the_same_rows(tmp_path: Path) -> None:
    plain = jsonl(tmp_path / "a.jsonl", ROWS)
    packed = jsonl(tmp_path / "a.jsonl.gz", ROWS)
    table = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS), table, row_group_size=3)
    shards = tmp_path / "shards"
    shards.mkdir()
    jsonl(shards / "train-0.jsonl", ROWS[:3])
    pq.write_table(pa.Table.from_pylist(ROWS[3:]), shards / "train-1.parquet")
    jsonl(shards / "dev.jsonl", [row(99)])
    expected = sampled(plain)
    assert len(expected[0]) == 7
    for other in (packed, table, shards):
        assert sampled(other) == expected
    found = open_rows(str(shards), "dev")
    assert [r.fields["query_id"] for r in found.read()] == ["q99"]


def test_a_local_data_set_streams_through_the_hub_library(tmp_path: Path) -> None:
    jsonl(tmp_path / "train.jsonl", ROWS)
    assert sampled(f"hf:{tmp_path}") == sampled(tmp_path)


def test_a_hub_out_of_reach_says_what_else_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"^hf:Tevatron/msmarco-passage: .*name the \.jsonl") as e:
        open_rows("Tevatron/msmarco-passage")
    assert "\n" not in str(e.value)
    # a revision that is known needs nothing before the rows do
    pinned = open_rows("Tevatron/msmarco-passage@abc")
    assert pinned.digest() == "hf:Tevatron/msmarco-passage@abc/train"
    with pytest.raises(DataError, match="without the hub"):
        next(pinned.read())


def test_what_is_no_source_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"rows 'gone\.jsonl': no such file or folder"):
        open_rows("gone.jsonl")
    with pytest.raises(DataError, match="holds no rows"):
        open_rows(str(tmp_path))
    other = tmp_path / "x.csv"
    other.write_text("a,b", encoding="utf-8")
    with pytest.raises(DataError, match=r"x\.csv: holds no rows"):
        next(open_rows(str(other)).read())


@pytest.mark.parametrize(
    ("broken", "problem"),
    [
        ('{"query_id": 1', "broken JSON"),
        ("[1]", "expected a JSON object"),
        (json.dumps(row(3) | {"positive_passages": []}), "'positive_passages' is empty"),
        (json.dumps(row(3) | {"query": " "}), "'query' is empty"),
        (json.dumps(row(3) | {"negative_passages": [passage("3+0")]}), "'3\\+0' appears twice"),
        (json.dumps(row(3) | {"negative_passages": ["text"]}), "must be an object"),
    ],
)
def test_a_broken_row_is_named_by_file_and_line(tmp_path: Path, broken: str, problem: str) -> None:
    path = tmp_path / "a.jsonl"
    lines = [json.dumps(row(1)), "", json.dumps(row(2)), broken]
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(DataError, match=rf"a\.jsonl:4: .*{problem}"):
        sampled(path)


def test_files_that_are_cut_short(tmp_path: Path) -> None:
    packed = jsonl(tmp_path / "a.jsonl.gz", [row(i) for i in range(2000)])
    packed.write_bytes(packed.read_bytes()[:-2000])
    with pytest.raises(DataError, match=r"a\.jsonl\.gz:\d+: the gzip stream is damaged or cut"):
        sampled(packed)
    table = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS), table)
    table.write_bytes(table.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"a\.parquet: the parquet file is damaged"):
        sampled(table)


def test_rows_that_give_no_group_are_counted(tmp_path: Path) -> None:
    path = jsonl(
        tmp_path / "a.jsonl",
        [
            row(1),
            row(2, negatives=0),
            row(3) | {"query": "What's  the CAPITAL of Peru"},
            row(4)
            | {
                "negative_passages": [
                    passage("d", "Text of 4, plus 0!"),
                    passage("e"),
                    passage("f"),
                ]
            },
            row(5) | {"negative_passages": [passage("g", "TEXT of 5 plus 0")]},
        ],
    )
    found, counts = sampled(path, held_out={"what s the capital of peru": "dl19"})
    assert [e.group.query_id for e in found] == ["x/q1", "x/q4"]
    assert found[1].group.passage_ids == ("4+0", "e", "f")
    assert counts == {
        "rows": 5,
        "groups": 2,
        "without_negatives": 2,
        "held_out": {"dl19": 1},
        "same_text": 2,
        "too_close": 0,
    }
    kept, counts = sampled(path, drop_same_text=False)
    assert [len(e.passages) for e in kept] == [4, 4, 4, 2]
    assert counts["same_text"] == 0
    first, counts = sampled(path, limit=1)
    assert [e.group.query_id for e in first] == ["x/q1"]
    assert counts["rows"] == 1


def test_a_title_is_the_beginning_of_its_passage(tmp_path: Path) -> None:
    def titled(found: Mapping[str, Any]) -> dict[str, Any]:
        title, text = found["text"].split(" ", 1)
        return {**found, "title": title, "text": text}

    rows = [row(i) for i in range(5)]
    rows[4]["negative_passages"][0] = passage("d", "Text of 4, plus 0!")
    split = [
        {**r, **{k: [titled(p) for p in r[k]] for k in ("positive_passages", "negative_passages")}}
        for r in rows
    ]
    expected = sampled(jsonl(tmp_path / "a.jsonl", rows))
    assert expected[1]["same_text"] == 1
    assert sampled(jsonl(tmp_path / "b.jsonl", split)) == expected


def test_the_positive_is_the_first_or_a_random_one(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [row(i, positives=3) for i in range(30)])

    def opening(**values: Any) -> list[str]:
        found, _ = sampled(path, GroupPlan(size=4, negatives="random", **values))
        return [e.group.passage_ids[0].partition("+")[2] for e in found]

    assert opening(shuffle_positives=False) == ["0"] * 30
    drawn = opening()
    assert set(drawn) == {"0", "1", "2"}
    assert drawn == opening()
    assert drawn != opening(seed=1)


def test_rows_by_id_take_their_texts_from_a_corpus(tmp_path: Path) -> None:
    ids = {
        "query_id": "q1",
        "query": "why?",
        "positive_document_ids": ["a"],
        "negative_document_ids": ["b", "c"],
    }
    path = jsonl(tmp_path / "a.jsonl", [ids])
    corpus = {n: Passage(id=n, text=f"text {n}", title="T") for n in "abc"}
    found, _ = sampled(path, corpus=corpus)
    assert found[0].passages == ("T text a", "T text b", "T text c")
    with pytest.raises(ConfigError, match="name their texts with `corpus`"):
        sampled(path)
    del corpus["c"]
    with pytest.raises(
        DataError, match=r"a\.jsonl:1: query 'q1': passage 'c' is not in the corpus"
    ):
        sampled(path, corpus=corpus)


def test_hard_negatives_of_a_run(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [row(1, negatives=2), row(2, negatives=2)])
    ranked = Ranking(query_id="q1", passage_ids=("1+0", "h", "1-1"), scores=(3.0, 2.0, 1.0))
    corpus = {n: Passage(id=n, text=n) for n in ("h", "1-1")}
    options: dict[str, Any] = {"run": {"q1": ranked}, "corpus": corpus}
    instead, counts = sampled(path, negatives="run", **options)
    assert [e.group.passage_ids for e in instead] == [("1+0", "h", "1-1")]
    assert counts["without_negatives"] == 1  # q2 is not in the run
    both, _ = sampled(path, negatives="both", **options)
    assert [e.group.passage_ids for e in both] == [
        ("1+0", "1-0", "1-1", "h"),
        ("2+0", "2-0", "2-1"),
    ]
    del corpus["h"]
    with pytest.raises(DataError, match=r"a\.jsonl:1: the run's passage 'h' is not in `corpus`"):
        sampled(path, negatives="run", **options)


def test_the_rows_own_scores_are_a_teacher(tmp_path: Path) -> None:
    scored = row(1) | {
        "positive_passages": [passage("+", score=5.0)],
        "negative_passages": [passage(f"-{i}", score=s) for i, s in enumerate((4.8, 1.0, 3.0))],
    }
    path = jsonl(tmp_path / "a.jsonl", [scored])
    found, _ = sampled(path, needs_teacher=True, scale=2.0)
    assert found[0].group.passage_ids == ("+", "-0", "-2", "-1")
    assert found[0].group.teacher == pytest.approx((10.0, 9.6, 6.0, 2.0))
    close, counts = sampled(path, GroupPlan(size=4, min_margin=1.0), needs_teacher=True)
    assert set(close[0].group.passage_ids) == {"+", "-1", "-2"}
    assert counts["too_close"] == 1
    none, counts = sampled(path, GroupPlan(size=4, min_margin=9.0), needs_teacher=True)
    assert not none
    assert counts["without_negatives"] == 1
    plain = jsonl(tmp_path / "b.jsonl", ROWS)
    with pytest.raises(DataError, match=r"b\.jsonl:1: the loss reads a teacher's scores: the row"):
        sampled(plain, needs_teacher=True)
    with pytest.raises(ConfigError, match="min_margin compares a teacher's scores"):
        sampled(plain, GroupPlan(min_margin=0.0))


def test_the_order_of_rows_changes_no_group(tmp_path: Path) -> None:
    plan = GroupPlan(size=3, negatives="random", per_query=2)
    one, _ = sampled(jsonl(tmp_path / "a.jsonl", ROWS), plan)
    two, _ = sampled(jsonl(tmp_path / "b.jsonl", ROWS[::-1]), plan)
    assert len(one) == 14
    assert sorted(one, key=repr) == sorted(two, key=repr)


def test_rows_of_flag_embedding_give_the_same_examples(tmp_path: Path) -> None:
    rows = [row(i) for i in range(3)]
    flag = [
        {
            "query": r["query"],
            "pos": [p["text"] for p in r["positive_passages"]],
            "neg": [p["text"] for p in r["negative_passages"]],
        }
        for r in rows
    ]
    ours, counts = sampled(jsonl(tmp_path / "rows.jsonl", rows))
    theirs, others = sampled(jsonl(tmp_path / "flag.jsonl", flag))
    assert counts["groups"] == others["groups"] == 3
    # they have no ids: which negatives are drawn is another draw, the positives are the same
    assert [(e.query, e.passages[0]) for e in ours] == [(e.query, e.passages[0]) for e in theirs]
    scored = [
        {**r, "pos_scores": [2.5], "neg_scores": [float(-i) for i in range(len(r["neg"]))]}
        for r in flag
    ]
    found, _ = sampled(jsonl(tmp_path / "scored.jsonl", scored), needs_teacher=True)
    for example, r in zip(found, scored, strict=True):
        teacher = dict(zip(r["pos"] + r["neg"], r["pos_scores"] + r["neg_scores"], strict=True))
        assert list(example.group.teacher) == [teacher[p] for p in example.passages]
