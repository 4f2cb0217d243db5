"""Prompts for queries, and what answers are read as."""

from __future__ import annotations

import pytest

from dear.prompts.queries import GENERAL_SHOTS, Shot, query_prompt, read_query
from dear.records import Passage


def test_shots_are_turns_and_the_document_comes_last() -> None:
    passage = Passage(id="a", title="Owls", text='They "hunt" at\nnight. ' + "word " * 500)
    found = query_prompt(passage, [Shot("a document", "its query")], max_words=20)
    assert [role for role, _ in found.messages] == ["user", "assistant", "user"]
    assert found.messages[1][1] == "its query"
    last = found.messages[2][1]
    assert last.endswith('word"\nQuery:')
    assert "Owls They 'hunt' at night." in last
    assert len(last.split()) < 60
    endless = query_prompt(Passage(id="a", text="x" * 10_000), max_words=20)
    assert endless.messages[-1][1].count("x") <= 20 * 10
    assert query_prompt(passage).messages[0][1].count(GENERAL_SHOTS[0].document) == 1


@pytest.mark.parametrize(
    ("answer", "query"),
    [
        ("how owls hunt", "how owls hunt"),
        ('\n Query: "how owls hunt?"\nBecause …', "how owls hunt?"),
        ("1. **how owls hunt**\n2. why", "how owls hunt"),
        ("<think>\nowls …\n</think>\nhow owls hunt", "how owls hunt"),
        ("Question 2: how owls hunt", "how owls hunt"),
        ("", None),
        ('""', None),
        (" \n ", None),
    ],
)
def test_the_first_line_is_the_query(answer: str, query: str | None) -> None:
    assert read_query(answer) == query


def test_an_answer_that_was_cut() -> None:
    assert read_query("how do owls", cut=True) is None
    assert read_query("how do owls hunt? They hear", cut=True) == "how do owls hunt?"
    assert read_query("how owls hunt\nBecause they", cut=True) == "how owls hunt"
