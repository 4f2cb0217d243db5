"""`dear collections`: the list, one entry, a family; and what it says of this machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import dear, good, refused

from dear.data.catalogue import COLLECTIONS, FAMILIES


@pytest.fixture(autouse=True)
def place(animals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with one collection, under an alias of its name."""
    (tmp_path / "dl-20").symlink_to(animals)
    monkeypatch.setenv("DEAR_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_collection_or_its_family_has_a_line_and_all_fit_on_a_screen() -> None:
    lines = good("collections").splitlines()
    assert len(lines) <= 45
    first = {line.split()[0] for line in lines}
    single = {e.name for e in COLLECTIONS.values() if e.family is None}
    assert single | {f"{family}-…" for family in FAMILIES} <= first
    rows = {line.split()[0]: line for line in lines}
    assert rows["dl20"].split()[1] == "here"
    assert "made here" in rows["pydocs"]
    assert "by hand" in rows["bioasq"]
    assert "MRR@10" in rows["msmarco"]
    assert "12 collections: dear collections bright" in rows["bright-…"]


def test_one_entry_is_shown_whole(place: Path) -> None:
    shown = good("collections", "trec-dl-20")
    assert shown.startswith("dl20: TREC Deep Learning 2020, graded\n")
    for line in (
        f"here          {place / 'dl-20'}",
        "runs          train: bm25",
        "              test: bm25",
        "documents     8,841,823 in the whole collection",
        "judged        test: 54 queries, 11,386 judgements",
        "relevant      grade 2 and up, in MRR, MAP, recall, precision",
        "reported by   nDCG@10",
        "usually       BM25 top-100, reranked",
        "licence       MS MARCO terms: non-commercial research",
    ):
        assert line in shown.splitlines()
    assert "msmarco-passage/trec-dl-2020/judged" in shown
    assert "published (not measured here)" in shown
    assert any(
        line.split()[:3] == ["DeAR-L-8B", "nDCG@10", "0.7563"] for line in shown.splitlines()
    )


def test_what_is_not_free_says_how_to_get_it() -> None:
    assert "not free to download: register at bioasq.org" in good("collections", "bioasq")
    assert "agreement with NIST" in good("collections", "robust")
    assert "always; it is made from the running Python" in good("collections", "pydocs")


@pytest.mark.parametrize("name", COLLECTIONS)
def test_every_entry_can_be_shown(name: str) -> None:
    assert good("collections", name).startswith(f"{name}: ")


def test_a_family_is_a_table_of_its_members() -> None:
    lines = good("collections", "cqadupstack").splitlines()[1:]
    assert [line.split()[0] for line in lines] == list(FAMILIES["cqadupstack"])
    as_json = json.loads(good("collections", "bright", "--json"))
    assert [one["name"] for one in as_json] == list(FAMILIES["bright"])


def test_json_of_one() -> None:
    one = json.loads(good("collections", "touche", "--json"))
    assert one["name"] == "webis-touche2020"
    assert one["splits"]["test"]["judgements"] == 2214
    assert (one["present"], one["folder"], one["min_grade"]) == (False, None, 1)
    assert {"system": "BM25", "value": 0.4422}.items() <= one["published"][0].items()


def test_unknown_names() -> None:
    assert refused("collections", "touch") == "no collection 'touch'; did you mean 'touche'?"
    assert refused("collections", "qq") == "no collection 'qq'; `dear collections` lists them"


def test_the_notes_go_to_standard_error() -> None:
    assert "DEAR_DATA adds folders" in dear("collections").err
    assert dear("collections", "--quiet").err == ""
