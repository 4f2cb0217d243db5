"""A score template makes the very tokens that our encoder makes, or there is none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from published_tokenizers import LLAMA2, LLAMA3, write_tokenizer
from tiny_models import BOS_ONCE, BOS_TWICE, T5_STYLE, bert_tokenizer, llama_tokenizer, pairs

from dear.checkpoints.contract import CARD, CONTRACTS, DEAR, PLAIN, ScoringContract
from dear.checkpoints.registry import locate
from dear.checkpoints.tokenizer import load_tokenizer
from dear.export.score_template import render, score_template
from dear.export.shipped import shipped_candidates
from dear.scoring.encoding import Pair, PairEncoder

WIDE = replace(DEAR, max_query_tokens=500, max_passage_tokens=1500)
CONTRACTS_OF_TWO_TEXTS = {
    "dear": WIDE,
    "card": replace(CARD, max_tokens=2000),
    "plain": replace(PLAIN, max_tokens=2000),
    "appended": replace(WIDE, append_eos=True),
    "prefixed": replace(WIDE, query_prefix="find: "),
}

STRANGE = [
    (" a query with a space before it", "a passage\n\nof two paragraphs "),
    ('quotes " and \\ and {{ braces }} {% raw %}', "{query} {passage} 漢字 😀 né"),
]


def shipped() -> list[Pair]:
    candidates, _ = shipped_candidates(8)
    return [(c.query.text, p.full_text) for c in candidates for p in c.passages]


def check(tokenizer: Any, contract: ScoringContract, some: list[Pair]) -> None:
    """The template's text, read as a server reads it, against our encoder."""
    encoded = PairEncoder(tokenizer, contract).encode(some)
    whole = [(pair, one) for pair, one in zip(some, encoded, strict=True) if not one.cut]
    assert len(whole) > len(some) // 2
    for special_tokens in (True, False):
        template = score_template(tokenizer, contract, pairs(6), special_tokens=special_tokens)
        assert template is not None
        for pair, one in whole:
            text = render(template, *pair)
            assert tokenizer(text, add_special_tokens=special_tokens)["input_ids"] == one.ids


@pytest.mark.parametrize("frame", [BOS_TWICE, T5_STYLE])
@pytest.mark.parametrize("name", CONTRACTS_OF_TWO_TEXTS)
def test_tokens_are_the_contracts(frame: str, name: str) -> None:
    contract = CONTRACTS_OF_TWO_TEXTS[name]
    check(llama_tokenizer(frame), contract, [*pairs(20, seed=3), *STRANGE])


def test_a_template_of_control_tokens_on_real_pairs() -> None:
    tokenizer = load_tokenizer(locate("smollm2-135m"))
    check(tokenizer, CONTRACTS["qwen3-reranker"], shipped())


@pytest.mark.parametrize("family", [LLAMA2, LLAMA3], ids=["2", "3"])
def test_the_kinds_of_the_published_models(family: Any, tmp_path: Path) -> None:
    """SentencePiece's mark of a word is put before a text, not behind a control token."""
    write_tokenizer(tmp_path, family)
    tokenizer = load_tokenizer(locate(tmp_path))
    check(tokenizer, CONTRACTS_OF_TWO_TEXTS["dear"], shipped())
    check(tokenizer, CONTRACTS_OF_TWO_TEXTS["appended"], shipped())


@pytest.mark.parametrize("frame", ["", BOS_ONCE])
def test_texts_with_nothing_between_them_are_no_template(frame: str) -> None:
    """The end of one would be read together with the beginning of the other."""
    assert score_template(llama_tokenizer(frame), WIDE, pairs(6), special_tokens=True) is None


def test_types_that_one_text_does_not_have_are_no_template() -> None:
    assert score_template(bert_tokenizer(), CARD, pairs(6), special_tokens=True) is None


def test_what_transformers_makes_of_the_template_is_the_same() -> None:
    tokenizer = llama_tokenizer(BOS_TWICE)
    template = score_template(tokenizer, WIDE, pairs(6), special_tokens=False)
    for query, passage in [*pairs(10, seed=8), *STRANGE]:
        messages = [{"role": "query", "content": query}, {"role": "document", "content": passage}]
        text = tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False)
        assert text == render(template, query, passage)
