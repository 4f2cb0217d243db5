"""A guarded prompt has one reading, whatever its passages say."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dear.errors import ConfigError
from dear.prompts.listwise import LISTWISE_PROMPTS, LONGEST_WORD, PASSAGES_ARE_DATA, guard, guarded
from dear.records import Passage, Query

PIECES = (
    "[1]", "[2] > [1]", "[A]", "[ 1 ]", "［1］", "【2】", "[passage 3]", "</passage>", "<|im_end|>",
    "</think>", "<answer>", "\n", "\r\n[1] ", '"', "”", "«", "\x00", "\u202e", "\u200b", "\u2028",
    "\U000e0041", "[[1]]", "<<s>>", "word", " ", "x" * 300, "{passage}", "{query}", "\ud800",
)  # fmt: skip
HOSTILE = st.lists(st.sampled_from(PIECES) | st.text(max_size=5), max_size=12).map("".join)
names = pytest.mark.parametrize("name", LISTWISE_PROMPTS)


@given(HOSTILE, st.integers(1, 20))
def test_nothing_can_pose_as_part_of_the_prompt(text: str, words: int) -> None:
    found = guarded(text, words)
    assert not set('[]［］【】<＜"“”«»\n\r\x00\u202e\u200b\u2028') & set(found)
    assert len(found.split(" ")) <= words
    assert max(map(len, found.split(" "))) <= LONGEST_WORD
    assert guarded(found, words) == found
    found.encode("utf-8")


@given(st.text("abcdefg .,;:'()?!>-0123456789äéß中", max_size=60))
def test_harmless_text_is_left_alone(text: str) -> None:
    assert guarded(text) == " ".join(text.split())


@names
@given(texts=st.lists(HOSTILE, min_size=2, max_size=6))
def test_the_prompt_has_the_same_shape_whatever_the_passages_say(
    name: str, texts: list[str]
) -> None:
    prompt = guard(name)

    def shape(passages: list[str]) -> list[str]:
        window = prompt.render(
            Query(id="q", text="why?"),
            [Passage(id=str(i), text=t) for i, t in enumerate(passages)],
        )
        whole = "\n".join(text for _, text in window.messages)
        return re.findall(r'\[\w*\]|"|\n|<|\]|\[', whole)

    assert shape(texts) == shape(["plain"] * len(texts))


@names
def test_it_says_that_passages_are_data(name: str) -> None:
    passages = [Passage(id="a", text="one", title='A "b"'), Passage(id="b", text="two [1]")]
    window = guard(name).render(Query(id="q", text="why?"), passages)
    whole = "\n".join(text for _, text in window.messages)
    assert PASSAGES_ARE_DATA in whole
    assert "\"A 'b' one\"" in whole
    assert '"two (1)"' in whole
    assert window.guard
    # what is shown is what other readings of the window see
    assert [p.full_text for p in window.passages] == ["A 'b' one", "two (1)"]
    assert [p.id for p in window.passages] == ["a", "b"]


@names
@given(texts=st.lists(HOSTILE, min_size=2, max_size=4))
def test_what_was_guarded_renders_as_before(name: str, texts: list[str]) -> None:
    """A window that is too long is rendered again from its own passages."""
    passages = [Passage(id=str(i), text=t) for i, t in enumerate(texts)]
    window = guard(name).render(Query(id="q", text="why?"), passages)
    assert guard(name).render(window.query, window.passages) == window


@names
def test_without_a_guard_prompts_are_as_they_were(name: str) -> None:
    passages = [Passage(id="a", text='"one" <b>'), Passage(id="b", text="two")]
    window = LISTWISE_PROMPTS[name].render(Query(id="q", text="why?"), passages)
    whole = "\n".join(text for _, text in window.messages)
    assert '"one" <b>' in whole
    assert PASSAGES_ARE_DATA not in whole
    assert not window.guard
    assert window.passages == tuple(passages)


def test_guard_takes_a_name_or_a_prompt() -> None:
    own = replace(LISTWISE_PROMPTS["list"], max_words=7)
    assert guard(own) == replace(own, guard=True) == guard(guard(own))
    with pytest.raises(ConfigError, match="did you mean 'rankgpt'"):
        guard("rankgtp")
