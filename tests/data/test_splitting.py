"""Documents to passages, and back to the documents that they are of."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dear.data.documents import best_passages, document_of, passage_judgements
from dear.data.splitting import (
    LONGEST_TOKEN,
    SplitSize,
    bounded_starts,
    safe_mark,
    split_document,
    word_starts,
)
from dear.errors import ConfigError
from dear.records import Passage, Ranking


def passages(text: str, size: int = 16, overlap: int = 4, title: str = "") -> list[str]:
    document = Passage(id="d", text=text, title=title)
    split = SplitSize(size=size, overlap=overlap)
    found = list(split_document(document, word_starts(text), len(word_starts(title)), split))
    assert [p.id for p in found] == [f"d#{n}" for n in range(1, len(found) + 1)]
    assert {p.title for p in found} == {title}
    return [p.text for p in found]


def numbered(count: int, words: int = 5) -> str:
    return " ".join(f"Number {n} says " + "so " * (words - 4) + "again." for n in range(count))


def test_a_short_or_an_empty_document_is_one_passage() -> None:
    assert passages("One sentence. Another one.") == ["One sentence. Another one."]
    assert passages("") == [""]
    assert passages(" \n \n ") == [""]


def test_whole_sentences_with_whole_sentences_as_overlap() -> None:
    found = passages(numbered(9), size=16, overlap=5)
    assert found[0] == numbered(3)
    assert found[1].startswith("Number 2 says")
    assert all(text.endswith("again.") for text in found)
    assert passages(numbered(9), size=16, overlap=0)[1].startswith("Number 3 says")


def test_a_paragraph_is_ended_with_where_it_is_half_a_passage() -> None:
    text = f"{numbered(2)}\n\n{numbered(5)}"
    assert passages(text, size=16, overlap=0)[0] == numbered(2)


def test_a_long_sentence_is_cut_at_lines_and_a_long_line_between_words() -> None:
    lines = "\n".join(f"item {n} without a stop" for n in range(8))
    assert passages(lines, size=10, overlap=0)[0].splitlines() == lines.splitlines()[:2]
    words = " ".join(f"w{n}" for n in range(100))
    found = passages(words, size=10, overlap=0)
    assert " ".join(found) == words
    assert {len(text.split()) for text in found} == {10}


def test_a_word_without_an_end_is_cut() -> None:
    found = passages("x" * 10_000, size=10, overlap=2)
    assert "".join(found) == "x" * 10_000
    assert max(map(len, found)) == 10 * LONGEST_TOKEN
    # a tokenizer may make one token of it
    assert len(bounded_starts([(0, 10_000)])) == -(-10_000 // LONGEST_TOKEN)


def test_a_title_takes_its_room_but_not_all() -> None:
    text = " ".join(f"w{n}" for n in range(100))
    assert len(passages(text, size=10, title="one two three")[0].split()) == 7
    assert len(passages(text, size=10, title="long " * 50)[0].split()) == 5


TEXTS = st.text(st.sampled_from("ab. \n。水!?\t"), max_size=300)


@given(TEXTS, st.integers(8, 20), st.integers(0, 4))
def test_no_text_is_lost_and_no_passage_is_too_long(text: str, size: int, overlap: int) -> None:
    found = passages(text, size=size, overlap=overlap)
    assert all(len(word_starts(passage)) <= size for passage in found)
    at = 0
    for passage in found:  # each begins at or before the end of what came before
        begins = text.find(passage, max(0, at - 300))
        assert begins >= 0
        gap = text[at:begins] if begins > at else ""
        assert not word_starts(gap)
        at = max(at, begins + len(passage))
    assert not word_starts(text[at:])


@given(st.lists(st.from_regex(r"[a#]{1,3}(#\d)?", fullmatch=True), min_size=1, unique=True))
def test_no_passage_has_the_id_of_a_document(ids: list[str]) -> None:
    mark = safe_mark(ids)
    assert not {f"{i}{mark}{n}" for i in ids for n in (1, 10)} & set(ids)
    assert mark == "#" or any(re.search(r"#\d+$", i) for i in ids)


def test_sizes_that_leave_no_room_are_refused() -> None:
    with pytest.raises(ConfigError, match="too short"):
        SplitSize(size=7)
    with pytest.raises(ConfigError, match="half"):
        SplitSize(size=20, overlap=11)


def test_the_document_of_a_passage() -> None:
    assert document_of("a#12") == "a"
    assert document_of("a#b#1") == "a#b"
    assert [document_of(i) for i in ("a", "#1", "a#b", "a#")] == ["a", "#1", "a#b", "a#"]
    assert document_of("a#1", {"a#1##1": "a#1"}) == "a#1"


def test_a_document_counts_by_its_best_passage() -> None:
    texts = tuple(Passage(id=i, text=f"text of {i}") for i in ("b#2", "a#1", "b#1", "c"))
    ranking = Ranking(
        query_id="q",
        passage_ids=tuple(p.id for p in texts),
        scores=(4.0, 3.0, 2.0, 1.0),
        passages=texts,
        positions=(3, 0, 2, 1),
    )
    found = best_passages(ranking)
    assert found.passage_ids == ("b", "a", "c")
    assert found.scores == (4.0, 3.0, 1.0)
    assert [p.text for p in found.passages] == ["text of b#2", "text of a#1", "text of c"]
    assert [p.id for p in found.passages] == ["b", "a", "c"]
    assert found.positions == (3, 0, 1)


def test_judged_documents_become_their_best_passages() -> None:
    documents = {"a#1": "a", "a#2": "a", "b#1": "b", "b#2": "b"}
    run = {"q": Ranking(query_id="q", passage_ids=("a#2", "a#1"), scores=(2.0, 1.0))}
    judgements = {"q": {"a": 2, "b": 0, "gone": 1}, "made": {"b#2": 1}}
    assert passage_judgements(judgements, run, documents) == {
        "q": {"a#2": 2, "b#1": 0, "gone": 1},
        "made": {"b#2": 1},
    }
