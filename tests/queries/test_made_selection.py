"""Which made queries are kept, and why the others are not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from dear.queries.selection import (
    NEAR,
    DropReason,
    MadeQuery,
    found_back,
    put_first,
    without_repeats,
)
from dear.records import Passage, Query, Ranking


def made(*texts: str) -> list[MadeQuery]:
    return [
        MadeQuery(query=Query(id=f"q{n}", text=text), passage_id=f"p{n}", made="rule", kind="title")
        for n, text in enumerate(texts)
    ]


def near(a: set[str], b: set[str]) -> bool:
    return len(a & b) >= NEAR * len(a | b)


WORDS = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=6).map(" ".join)


@given(st.lists(WORDS, max_size=12), st.lists(WORDS, max_size=4))
def test_nothing_is_near_a_test_query_or_an_earlier_one(
    texts: list[str], held_out: list[str]
) -> None:
    dropped: Counter[DropReason] = Counter()
    kept = without_repeats(made(*texts), held_out, dropped)
    assert len(kept) + dropped.total() == len(texts)
    expected: list[set[str]] = [set(text.split()) for text in held_out]
    ours = []
    for one in made(*texts):  # by looking at all pairs
        words = set(one.query.text.split())
        if not any(near(words, other) for other in expected):
            expected.append(words)
            ours.append(one)
    assert kept == ours


def test_why_they_are_dropped() -> None:
    dropped: Counter[DropReason] = Counter()
    texts = ("What do OWLS eat?", "how owls hunt", "How do owls hunt", "How, owls; hunt!")
    kept = without_repeats(made(*texts), ["what do owls eat"], dropped)
    assert [one.query.text for one in kept] == ["how owls hunt", "How do owls hunt"]
    assert dropped == {"like a test query": 1, "duplicate": 1}


RUN = {
    "q0": Ranking(query_id="q0", passage_ids=("p1", "p0"), scores=(2.0, 1.0)),
    "q1": Ranking(query_id="q1", passage_ids=("p0",), scores=(1.0,)),
}


def test_their_own_passage_or_its_document_is_found_back() -> None:
    dropped: Counter[DropReason] = Counter()
    ours = made("a", "b", "c")
    assert found_back(ours, RUN, None, dropped) == ours[:1]
    assert dropped == {"not found back": 2}
    assert found_back(ours, RUN, {"p0": "d", "p1": "d", "p2": "d"}, Counter()) == ours[:2]


class Likes:
    """Scores a passage by its length."""

    def score(self, pairs: Sequence[tuple[str, str]], progress: Any = None) -> Iterable[float]:
        return [float(len(passage)) for _, passage in pairs]


def test_the_teacher_puts_their_passage_first_by_a_margin() -> None:
    corpus = {i: Passage(id=i, text="x" * n) for i, n in (("p0", 5), ("p1", 3), ("p2", 5))}
    run = {
        q: Ranking(query_id=q, passage_ids=("p0", "p1"), scores=(2.0, 1.0)) for q in ("q0", "q1")
    }
    dropped: Counter[DropReason] = Counter()
    ours = made("a", "b")
    kept = put_first(ours, run, corpus, Likes(), 2.0, None, dropped)
    assert kept == ours[:1]
    assert dropped == {"not first": 1}
    assert put_first(ours, run, corpus, Likes(), 2.5, None, Counter()) == []
    # the best passage of their document counts
    documents = {"p0": "d", "p1": "d"}
    assert put_first(ours, run, corpus, Likes(), 1.0, documents, Counter()) == ours
    # one that stands beside an equal one is not first
    same = {"q0": Ranking(query_id="q0", passage_ids=("p0", "p2"), scores=(2.0, 1.0))}
    assert put_first(made("a"), same, corpus, Likes(), 0.0, None, Counter()) == []
