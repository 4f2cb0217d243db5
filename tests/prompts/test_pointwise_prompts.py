"""Pairs become text by replacement: whatever stands in a text stays as it is."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dear.prompts.pointwise import PAIR_PROMPTS, ZERO_SHOT_PROMPTS

texts = st.text(st.sampled_from("ab {}\\\n$%é漢") | st.characters(), max_size=30) | st.sampled_from(
    ["{query}", "{passage}", "{0}", "{query} {passage}", "{{passage}}", ""]
)


@given(query=texts, passage=texts)
def test_the_cards_template(query: str, passage: str) -> None:
    rendered = PAIR_PROMPTS["dear"].render(query, passage)
    assert rendered == (f"query: {query}", f"document: {passage}")


@given(query=texts, passage=texts)
def test_the_plain_template_changes_nothing(query: str, passage: str) -> None:
    assert PAIR_PROMPTS["plain"].render(query, passage) == (query, passage)


@pytest.mark.parametrize("name", ZERO_SHOT_PROMPTS)
@given(query=texts, passage=texts)
def test_every_question_holds_both_texts_once(name: str, query: str, passage: str) -> None:
    prompt = ZERO_SHOT_PROMPTS[name]
    rendered = prompt.render(query, passage)
    for template, found in zip((prompt.prompt, prompt.target), rendered, strict=True):
        template = template.replace("{instruction}", prompt.instruction)
        marks = template.count("{query}"), template.count("{passage}")
        left = len(template) - marks[0] * len("{query}") - marks[1] * len("{passage}")
        assert len(found) == left + marks[0] * len(query) + marks[1] * len(passage)
    template = prompt.prompt + prompt.target
    assert (template.count("{query}"), template.count("{passage}")) == (1, 1)
    # the same with texts that hold no braces, where str.format is the oracle
    clean_q, clean_p = query.replace("{", "("), passage.replace("{", "(")
    expected = tuple(
        t.format(query=clean_q, passage=clean_p, instruction=prompt.instruction)
        for t in (prompt.prompt, prompt.target)
    )
    assert prompt.render(clean_q, clean_p) == expected


@pytest.mark.parametrize("name", ZERO_SHOT_PROMPTS)
def test_every_question_says_how_it_is_read(name: str) -> None:
    prompt = ZERO_SHOT_PROMPTS[name]
    if prompt.read == "likelihood":
        assert "{query}" in prompt.target
        assert not prompt.seq2seq
        assert (prompt.yes, prompt.no) == ("", "")
    else:
        assert prompt.target == ""
        assert prompt.yes != prompt.no
    assert ("{instruction}" in prompt.prompt) == bool(prompt.instruction)
    assert set(dataclasses.asdict(prompt)) == {
        "read", "prompt", "target", "yes", "no", "seq2seq", "instruction"
    }  # fmt: skip


def test_the_published_questions() -> None:
    """Word for word: monoT5 (2020), Qwen3-Reranker's model card, UPR (2022)."""
    assert ZERO_SHOT_PROMPTS["monot5"].render("Q", "D")[0] == "Query: Q Document: D Relevant:"
    asked, target = ZERO_SHOT_PROMPTS["upr"].render("Q", "D")
    assert asked == "Passage: D. Please write a question based on this passage.\nQuestion:"
    assert target == " Q"
    qwen3 = ZERO_SHOT_PROMPTS["qwen3"].render("Q", "D")[0]
    assert "\n<Query>: Q\n<Document>: D<|im_end|>\n<|im_start|>assistant\n<think>" in qwen3
    assert qwen3.endswith("</think>\n\n")
