"""Published rows: complete, sourced, and the same where their runs are at hand."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import pytest

from dear.data.catalogue import COLLECTIONS
from dear.data.formats import read_run
from dear.errors import DataError
from dear.evaluate.metrics import evaluate, parse_measures
from dear.evaluate.published import (
    NOT_MEASURED,
    PublishedRow,
    all_published,
    parse_published,
    published_rows,
)
from dear.records import Ranking

WITH_RUN = [row for row in all_published() if row.run]
DEAR_TABLE = "dl19 dl20 trec-covid nfcorpus webis-touche2020 dbpedia-entity scifact signal1m"


def value(collection: str, system: str, measure: str = "nDCG@10") -> float:
    (row,) = [r for r in published_rows(collection, measures=[measure]) if r.system == system]
    return row.value


def test_rows_are_of_known_collections_and_measures() -> None:
    for row in all_published():
        assert row.collection in COLLECTIONS
        assert [m.name for m in parse_measures([row.measure])] == [row.measure]
        assert row.source
        assert row.note.startswith(NOT_MEASURED)
        assert row.source in row.note
        assert row.caveat in row.note
    keys = [(r.system, r.collection, r.measure, r.source) for r in all_published()]
    assert len(keys) == len(set(keys))


def test_dears_table_is_whole() -> None:
    for collection in (*DEAR_TABLE.split(), "trec-news", "robust04"):
        systems = [r.system for r in published_rows(collection) if "arXiv 2508.16998" in r.source]
        assert systems == ["BM25", "monoT5-3B", "DeAR-P-8B", "DeAR-L-8B"]
        assert all(r.first_stage == "BM25" for r in published_rows(collection)[1:4])
    assert value("dl19", "DeAR-L-8B") == 0.7791
    assert value("robust04", "monoT5-3B") == 0.5671
    assert value("noveleval", "DeAR-L-8B", "nDCG@1") == 0.9286


def test_what_must_be_read_with_care_says_so() -> None:
    (card,) = [r for r in published_rows("msmarco") if r.value == 0.725]
    assert "cannot be right" in card.note
    assert "mean of @1, @5 and @10" in published_rows("noveleval", measures=["nDCG@10"])[-1].note
    assert "neither the released order" in published_rows("noveleval")[0].note
    assert published_rows("no-such") == ()


def by_written_rank(path: Path) -> dict[str, Ranking]:
    ranked: dict[str, list[tuple[int, str]]] = {}
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            query_id, _, passage_id, rank, *_ = line.split()
            ranked.setdefault(query_id, []).append((int(rank), passage_id))
    return {
        q: Ranking.sorted(q, [p for _, p in pairs], [-rank for rank, _ in pairs])
        for q, pairs in ranked.items()
    }


@pytest.mark.parametrize("row", WITH_RUN, ids=lambda r: f"{r.collection}-{Path(r.run).name}")
def test_a_row_with_a_run_comes_out_the_same(row: PublishedRow, shared_data, load_qrels) -> None:
    assert row.run is not None
    run = by_written_rank(shared_data / row.run)
    found = evaluate(run, load_qrels(row.collection), [row.measure]).means[row.measure]
    assert round(found, 4) == row.value


@pytest.mark.parametrize("row", WITH_RUN, ids=lambda r: f"{r.collection}-{Path(r.run).name}")
def test_a_row_that_depends_on_ties_says_so(row: PublishedRow, shared_data, load_qrels) -> None:
    assert row.run is not None
    run = read_run(shared_data / row.run)
    found = evaluate(run, load_qrels(row.collection), [row.measure]).means[row.measure]
    other = f"{found:.4f}"
    assert (other == f"{row.value:.4f}") != (f"in trec_eval's order it is {other}" in row.caveat)


def test_the_rows_of_the_issue_are_among_those() -> None:
    assert {0.5058, 0.7439, 0.7308, 0.6682} <= {r.value for r in WITH_RUN}
    repeated = [r.value for r in WITH_RUN if r.system.startswith("GPT-3.5")]
    assert repeated == [0.6799, 0.6737, 0.6827, 0.6938, 0.6868]


GOOD = """
[sources]
here = "a paper"
[[rows]]
system = "S"
kind = "published"
source = "here"
first_stage = "BM25"
depth = 100
measure = "nDCG@10"
values.dl19 = 0.5
values.dl20 = 0.25
caveats.dl20 = "odd"
"""


def test_a_table_becomes_rows() -> None:
    one, other = parse_published(GOOD)
    assert (one.collection, one.value, one.caveat, one.depth) == ("dl19", 0.5, "", 100)
    assert (other.collection, other.value, other.caveat) == ("dl20", 0.25, "odd")
    assert other.note == f"{NOT_MEASURED}; over BM25 top-100; a paper; odd"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("0.25", "25", r"dl20 = 25: a fraction from 0 to 1"),
        ('"here"', '"hre"', r"no source 'hre'; did you mean 'here'\?"),
        ("depth", "dept", r"no key 'dept'; did you mean 'depth'\?"),
        ('"published"', '"measured"', "kind 'measured'"),
        ('"published"', '"published run"', "a published run without its file"),
        ('first_stage = "BM25"', "", "a depth, and no first stage"),
        ('system = "S"', "", "table 1: no 'system'"),
        ("[sources]", "[sources", "published rows: "),
    ],
)
def test_faults_name_the_table(old: str, new: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse_published(re.sub(re.escape(old), new, GOOD, count=1))
