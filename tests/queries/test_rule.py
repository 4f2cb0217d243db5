"""Queries by rule: from titles, headings and sentences."""

from __future__ import annotations

import pytest

from dear.errors import ConfigError
from dear.queries.rule import KINDS, check_kinds, is_query, rule_queries
from dear.records import Passage

PAGE = Passage(
    id="refunds.md",
    title="Refunds and returns",
    text=(
        "We send your money back within ten days. Ask the person who sold it to you first.\n\n"
        "When you paid by card\n\nThe bank sends it to the card that you paid with, usually.\n\n"
        "Cheques\n\nYou get a cheque by post in two weeks or three.\n\n"
        "x = f(1) + g[2] == h(3) and so_on(4)"
    ),
)


def test_each_kind() -> None:
    every = rule_queries(PAGE, count=99)
    by_kind = {kind: {text for k, text in every if k == kind} for kind in KINDS}
    assert by_kind["title"] == {"Refunds and returns"}
    # a heading of one word says little alone
    assert by_kind["heading"] == {"When you paid by card", "Refunds and returns Cheques"}
    assert "Ask the person who sold it to you first" in by_kind["sentence"]
    assert not any("g[2]" in text for text in by_kind["sentence"])
    assert rule_queries(PAGE, ("heading",), count=1)[0][0] == "heading"


def test_kinds_take_turns_and_the_seed_decides() -> None:
    first = [kind for kind, _ in rule_queries(PAGE, count=3)]
    assert sorted(first) == sorted(KINDS)
    assert rule_queries(PAGE, count=5, seed=1) == rule_queries(PAGE, count=5, seed=1)
    assert len({rule_queries(PAGE, seed=seed)[0] for seed in range(20)}) > 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("how do I get my money back?", True),
        ("well-known causes of M\u00fcller's syndrome", True),
        ("犬は何を食べますか", True),
        ("word", False),
        ("", False),
        ("0 1 2 3", False),
        ("return [x for x in y if x[0]]", False),
        (" ".join(["word"] * 26), False),
        ("x" * 10_000, False),
    ],
)
def test_what_is_as_long_as_a_query_and_made_of_words(text: str, expected: bool) -> None:
    assert is_query(text) == expected


def test_a_passage_that_says_nothing_gives_none() -> None:
    assert rule_queries(Passage(id="a", text=" \n ")) == []
    assert rule_queries(Passage(id="a", text="1. 2. 3.", title="a.txt")) == []


def test_kinds_that_are_none() -> None:
    with pytest.raises(ConfigError, match="did you mean 'heading'"):
        check_kinds(["headings"])
    with pytest.raises(ConfigError, match="no kind"):
        check_kinds([])
