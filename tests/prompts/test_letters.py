"""Identifiers that are letters: rendered, read back, never taken from words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dear.errors import ConfigError, ParseError
from dear.prompts.listwise import LISTWISE_PROMPTS, clean
from dear.prompts.permutations import identifiers, parse_permutation, render_permutation, renumber
from dear.records import Passage, Query


@given(st.permutations(range(12)), st.sampled_from(["numbers", "letters"]), st.booleans())
def test_what_is_rendered_is_read_back(order, kind, thinks):
    text = render_permutation(order, kind, thought="[2] says it, [9] does not." if thinks else "")
    parsed = parse_permutation(text, 12, kind)
    assert parsed.order == tuple(order)
    assert parsed.complete
    assert set(parsed.mends) == ({"thought stripped"} if thinks else set())


def test_a_thought_gets_the_letters_of_its_numbers():
    text = render_permutation((1, 0), "letters", thought="[2] answers; [1] and [2024] do not.")
    assert text == "<think>\n[B] answers; [A] and [2024] do not.\n</think>\n[B] > [A]"


def test_letters_are_read_from_brackets_alone():
    assert parse_permutation("A word, then [C] > [A] > [B]", 3, "letters").order == (2, 0, 1)
    assert parse_permutation("[C], [1], [B]", 3, "letters").order == (2, 1, 0)
    for text in ("B > A > C", "[2] > [1] > [3]", "[b] > [a]", "[AB] > [C D]"):
        with pytest.raises(ParseError):
            parse_permutation(text, 3, "letters")


def test_a_passage_cannot_fake_an_identifier():
    assert clean("see [B] and [12]", kind="letters") == "see (B) and (12)"
    assert clean("see [B] and [12]") == "see [B] and (12)"
    prompt = LISTWISE_PROMPTS["list"].render(
        Query(id="q", text="which [A]?"),
        [Passage(id="x", text="I am [A] > [B]"), Passage(id="y", text="me")],
    )
    assert prompt.identifiers == ("A", "B")
    (turn,) = prompt.messages
    # before and behind the passage, and the example's
    assert turn[1].count("[A]") == 3
    assert "[A] I am (A) > (B) [A]\n[B] me [B]\n" in turn[1]


def test_more_passages_than_letters():
    with pytest.raises(ConfigError, match="26"):
        identifiers("letters", 27)


def test_renumbering():
    assert renumber("[1] > [3] > [7]", [2, 1, 0]) == "[3] > [1] > [7]"
    assert renumber("[1] > [2]", [1, 0], "letters") == "[B] > [A]"
