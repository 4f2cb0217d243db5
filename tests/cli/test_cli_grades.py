"""A collection says from which grade a passage is relevant; every command that asks, follows it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import JUDGEMENTS, first_stage, good, read

from dear.data.formats import write_qrels, write_run

STRONG = 4
"""Queries of a split whose own passage has grade 2."""


@pytest.fixture
def graded(mine: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Grade 2 alone is relevant, as its entry says. The first candidate of every query has grade
    1, the third one grade 2 for the first four queries and 1 for the others."""
    named = mine.rename(mine.parent / "dl19")
    for split, judgements in JUDGEMENTS.items():
        made = {}
        for place, query in enumerate(judgements):
            ids = first_stage(split)[query].passage_ids
            made[query] = {ids[0]: 1, ids[2]: 2 if place < STRONG else 1}
        write_qrels(named / "qrels" / f"{split}.tsv", made)
    monkeypatch.setenv("DEAR_DATA", str(named.parent))
    return "dl19"


def test_compare(graded: str, tmp_path: Path) -> None:
    words = ("compare", graded, "bm25", tmp_path / "other.trec", "--measure", "MRR@10")
    turned = {
        q: replace(r, passage_ids=r.passage_ids[::-1]) for q, r in first_stage("test").items()
    }
    write_run(tmp_path / "other.trec", turned, "other")
    found = json.loads(good(*words, "--query", "sleep-otter", "--json"))
    (query,) = found["queries"]
    assert found["min_grade"] == 2
    assert query["a"] == pytest.approx(1 / 3)
    assert [p["relevant"] for p in query["ranking_a"][:3]] == [False, False, True]
    shown = good(*words, "--query", "sleep-otter")
    assert "● relevant (grade 2 and up), ○ not" in shown
    assert "●2" in shown
    assert "○1" in shown
    assert "●1" not in shown
    weak = json.loads(good(*words, "--query", "sleep-lion", "--json"))["queries"][0]
    assert (weak["a"], weak["b"]) == (0, 0)


def test_check(graded: str, reranker: Path) -> None:
    words = ("check", reranker, graded, "--run", "bm25", "--dtype", "float32", "--json", "-")
    words += ("--only", "near-duplicates,truncation", "--queries", STRONG, "--depth", 6)
    lines = json.loads(good(*words))["lines"]
    # of the queries with a relevant passage, and every one of those
    assert {line["queries"] for line in lines} == {STRONG}
    assert lines == json.loads(good(*words, "--min-grade", 2))["lines"]
    assert lines != json.loads(good(*words, "--min-grade", 1))["lines"]


def test_report(graded: str, tmp_path: Path) -> None:
    def said(*more: object) -> str:
        page = tmp_path / "r.md"
        good("report", page, graded, "--run", "bm25", "--measure", "MRR@10", *more)
        return page.read_text(encoding="utf-8")

    assert "relevant from grade 2" in said()
    assert "| bm25 | **0.1667** |" in said()
    assert "| bm25 | **1.0000** |" in said("--min-grade", 1)


def test_evaluate(graded: str) -> None:
    words = ("evaluate", graded, "--run", "bm25", "--measure", "MRR@10", "--json", "-")
    found = json.loads(good(*words))
    assert found["min_grade"] == 2
    assert found["runs"][0]["means"]["MRR@10"] == pytest.approx(1 / 6)


def test_calibrate(graded: str, reranker: Path, tmp_path: Path) -> None:
    def fitted(folder: Path, *more: object) -> str:
        return good(
            *("calibrate", reranker, "--collection", graded, "--dtype", "float32"),
            *("--unjudged", "irrelevant", "--probability", "isotonic", "-o", folder, *more),
        )

    assert "192 pairs of 8 queries, 4 of them relevant" in fitted(tmp_path / "two")
    assert read(tmp_path / "two" / "calibration.json")["fitted_on"]["min_grade"] == 2
    assert "16 of them relevant" in fitted(tmp_path / "one", "--min-grade", 1)
