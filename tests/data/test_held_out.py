"""Which queries are kept for tests, and when two texts are the same."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dear.data.formats import write_beir
from dear.data.held_out import PRESENT, SameText, held_out_queries, normalised
from dear.errors import ConfigError, DataError
from dear.records import Passage, Query

TEXTS = st.one_of(
    st.text(max_size=60),
    st.text(alphabet="ab ,.-AÉé\u0301ßﬁ1²", max_size=60),
    st.builds(lambda a, b: a * 8 + b, st.text(alphabet="ab ,", max_size=6), st.text(max_size=9)),
)


@given(texts=st.lists(TEXTS, max_size=3), other=TEXTS)
@example(texts=["a" * 31 + "é"], other="a" * 31 + "e\u0301")  # the mark is behind the cut
@example(texts=["x" * 40], other="x" * 40 + " y")
@example(texts=[""], other=" ... ")
def test_the_short_way_decides_as_the_long_one(texts: list[str], other: str) -> None:
    known = {normalised(t) for t in texts} - {""}
    assert (other in SameText(texts)) == (normalised(other) in known)
    assert all(t in SameText([t]) for t in texts if normalised(t))


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """dl19 with a test split, msmarco with dev alone, in a data folder of their own."""
    corpus = [Passage(id="p", text="a passage")]
    for name, split, text in (
        ("dl19", "test", "What is HAIL?"),
        ("msmarco", "dev", "who sings it"),
    ):
        write_beir(
            tmp_path / name,
            corpus=corpus,
            queries=[Query(id="1", text=text), Query(id="2", text=f"{text} unjudged")],
            judgements={split: {"1": {"p": 1}}},
        )
    monkeypatch.setenv("DEAR_DATA", str(tmp_path))
    return tmp_path


def test_test_queries_by_name_alias_and_split(data: Path) -> None:
    assert held_out_queries(["trec-dl-2019"]) == {"what is hail": "dl19"}
    assert held_out_queries(["msmarco"]) == {"who sings it": "msmarco"}
    both = held_out_queries(["dl19", "msmarco@dev"])
    assert both == {"what is hail": "dl19", "who sings it": "msmarco"}
    assert held_out_queries([PRESENT]) == {"what is hail": "dl19"}
    assert held_out_queries([]) == {}


def test_dev_queries_are_held_out_only_where_there_are_no_test_queries(data: Path) -> None:
    write_beir(
        data / "own",
        corpus=[Passage(id="p", text="a passage")],
        queries=[Query(id=split, text=f"asked in {split}") for split in ("train", "dev", "test")],
        judgements={split: {split: {"p": 1}} for split in ("train", "dev", "test")},
    )
    name = str(data / "own")
    assert list(held_out_queries([name])) == ["asked in test"]
    assert list(held_out_queries([f"{name}@dev"])) == ["asked in dev"]


def test_a_name_that_holds_nothing_out_is_an_error(data: Path) -> None:
    with pytest.raises(ConfigError, match="dl91"):
        held_out_queries(["dl91"])
    with pytest.raises(DataError, match="no split 'tset'"):
        held_out_queries(["dl19@tset"])
    write_beir(data / "own", corpus=[Passage(id="p", text="a")], queries=[Query(id="1", text="q")])
    with pytest.raises(ConfigError, match="own has no test and no dev split"):
        held_out_queries([str(data / "own")])
