"""What a test collection asks about is kept out: queries, and passages with their titles."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reason_cases import question

from dear.data.collections import Collection
from dear.reason.select import Answer, HeldOut, held_out, select_all
from dear.records import ListExample, Passage, Query

WORDS = st.lists(st.sampled_from(["otter", "panda", "fish"]), min_size=1, max_size=3).map(" ".join)
TITLES = st.just("") | WORDS


def held_of(*passages: Passage, grade: int = 1) -> HeldOut:
    return held_out(
        [
            Collection.from_parts(
                "zoo",
                {p.id: p for p in passages},
                {"t": Query(id="t", text="Who eats fish?")},
                {"test": {"t": {p.id: grade for p in passages}}},
            )
        ]
    )


def example(*passages: Passage, query: str = "another one") -> ListExample:
    asked = Query(id="q", text=query)
    return ListExample(query=asked, passages=passages, order=tuple(range(len(passages))))


@given(TITLES, WORDS, TITLES, WORDS)
def test_a_passage_is_its_title_and_its_text(title: str, text: str, other: str, more: str) -> None:
    held = held_of(Passage(id="x", title=title, text=text))
    seen = Passage(id="a", title=other.upper(), text=f"{more}!")
    found = held.leak(example(Passage(id="b", text="nothing of it"), seen))
    same = f"{title} {text}".split() == f"{other} {more}".split()
    assert found == ("zoo" if same else None)


def test_a_query_leaks_whatever_its_passages_are() -> None:
    held = held_of(Passage(id="x", text="otters do"))
    two = Passage(id="a", text="one"), Passage(id="b", text="two")
    assert held.leak(example(*two, query="who  EATS fish")) == "zoo"
    assert held.leak(example(*two)) is None
    assert HeldOut(held.queries, {}).leak(example(*two, query="who eats fish")) == "zoo"


@pytest.mark.parametrize(("grade", "kept"), [(2, 1), (1, 1), (0, 0), (-1, 0)])
def test_passages_above_grade_0_are_held_out(grade: int, kept: int) -> None:
    assert len(held_of(Passage(id="x", text="otters do"), grade=grade).passages) == kept


def test_the_same_texts_under_other_titles_are_another_list() -> None:
    def answer(*titles: str) -> Answer:
        asked = question(["eats fish", "eats grass"])
        passages = tuple(
            Passage(id=p.id, text=p.text, title=title)
            for p, title in zip(asked.passages, titles, strict=True)
        )
        return Answer(question=type(asked)(query=asked.query, passages=passages), text="[1] > [2]")

    found = select_all([answer("Otter", "Cow"), answer("Seal", "Cow"), answer("Otter", "Cow")])
    assert (len(found.examples), found.dropped) == (2, {"duplicate": 1})
