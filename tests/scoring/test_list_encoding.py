"""Permutations as tokens: every one decodes to its text, and differs in the identifiers alone."""

from __future__ import annotations

import pytest

from dear.checkpoints.registry import locate
from dear.listwise.encoding import ListEncoder
from dear.prompts.listwise import LISTWISE_PROMPTS
from dear.prompts.permutations import identifiers, parse_permutation
from dear.records import Passage, Query
from dear.scoring.loading import load_tokenizer

WINDOW = LISTWISE_PROMPTS["list"].render(
    Query(id="q", text="what is x"), [Passage(id=i, text=f"text {i}") for i in "abcdefghijkl"]
)


@pytest.fixture(scope="module")
def encoder():
    return ListEncoder(load_tokenizer(locate("smollm2-135m")))


@pytest.mark.parametrize("kind", ["letters", "numbers"])
def test_an_answer_decodes_to_what_is_read_back(encoder, kind):
    order = (10, 1, 0, 11, *range(2, 10))
    ids = encoder.answer(identifiers(kind, 12), order, thought="[1] says it, [12] does not.")
    text = encoder.tokenizer.decode(ids, skip_special_tokens=True)
    parsed = parse_permutation(text, 12, kind)
    assert parsed.order == order
    assert dict(parsed.mends) == {"thought stripped": 1}
    assert ids[-1] == encoder.tokenizer.eos_token_id
    named = "[A] says it, [L]" if kind == "letters" else "[1] says it, [12]"
    assert named in text


def test_letters_are_one_token_each(encoder):
    chain = encoder.chain(identifiers("letters", 26))
    assert {len(ids) for ids in chain.identifiers} == {1}
    assert encoder.tokenizer.decode(chain.permutation((2, 0))) == "[C] > [A]<|im_end|>"
    # exactly as the tokenizer cuts the chain itself
    whole = encoder.tokenizer("[C] > [A]", add_special_tokens=False)["input_ids"]
    assert list(chain.permutation((2, 0)))[:-1] == whole


def test_a_prompt_ends_where_the_answer_begins(encoder):
    text = encoder.tokenizer.decode(encoder.prompt(WINDOW))
    assert text.endswith("<|im_start|>assistant\n")
    assert "[L] text l [L]\n" in text


def test_without_a_template_the_turns_stand_below_each_other(encoder):
    plain = load_tokenizer(locate("smollm2-135m"))
    plain.chat_template = None
    text = plain.decode(ListEncoder(plain).prompt(WINDOW))
    assert text.startswith("Query: what is x")
    assert text.endswith("Query: what is x\n\n")
