"""Pairs to tokens: each text cut at its own limit, special tokens where the tokenizer puts them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import BOS_ONCE, BOS_TWICE, T5_STYLE, bert_tokenizer, llama_tokenizer, pairs, words

from dear.checkpoints.contract import CARD, DEAR
from dear.errors import ConfigError
from dear.scoring.encoding import Encoded, PairEncoder

TOKENIZERS = {
    "bert": bert_tokenizer(),
    "bare": llama_tokenizer("", pad_token="</s>"),
    "bos": llama_tokenizer(BOS_ONCE, pad_token="</s>"),
    "bos twice": llama_tokenizer(BOS_TWICE, pad_token="</s>"),
    "eos": llama_tokenizer(T5_STYLE, pad_token="<unk>"),
    "left": llama_tokenizer(BOS_ONCE, pad_token="</s>", truncation_side="left"),
}
tokenizers = pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)


def bare(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def one(encoder: PairEncoder, query: str, passage: str) -> Encoded:
    return encoder.encode([(query, passage)])[0]


@tokenizers
def test_short_texts_are_what_the_tokenizer_makes_of_the_pair(tokenizer: Any) -> None:
    """Special tokens, their places and the types: all of them the tokenizer's own."""
    encoder = PairEncoder(tokenizer, DEAR)
    for query, passage in pairs(10, longest=15):
        whole = tokenizer(f"query: {query}", f"document: {passage}")
        found = one(encoder, query, passage)
        assert found.ids == whole["input_ids"]
        assert found.types == (whole.get("token_type_ids") or [0] * len(found))


@tokenizers
@given(q=st.integers(0, 60), p=st.integers(0, 300), seed=st.integers(0, 99))
@settings(max_examples=15)
def test_each_text_is_cut_at_its_own_limit(tokenizer: Any, q: int, p: int, seed: int) -> None:
    query, passage = words(q, seed), words(p, seed + 1)
    found = one(PairEncoder(tokenizer, DEAR), query, passage)
    a = bare(tokenizer, f"query: {query}")[:32]
    b = bare(tokenizer, f"document: {passage}")[:196]
    special = tokenizer.num_special_tokens_to_add(pair=True)
    assert len(found) == len(a) + len(b) + special
    kept = [i for i in found.ids if i not in tokenizer.all_special_ids]
    assert kept == a + b


@tokenizers
def test_neither_text_eats_the_other(tokenizer: Any) -> None:
    encoder = PairEncoder(tokenizer, DEAR)
    query, passage = words(100, 1), words(500, 2)
    same = one(encoder, query, passage)
    assert one(encoder, query + " " + words(900, 3), passage) == same
    assert one(encoder, query, passage + " " + words(900, 4)) == same
    # the query's part does not depend on the passage, however long
    short = one(encoder, query, "x")
    assert short.ids[:33] == same.ids[:33]


@tokenizers
@pytest.mark.parametrize("contract", [CARD, DEAR], ids=["card", "dear"])
def test_append_eos_is_never_cut_and_never_doubled(tokenizer: Any, contract: Any) -> None:
    if tokenizer.eos_token is None:
        with pytest.raises(ConfigError, match="no eos token"):
            PairEncoder(tokenizer, replace(contract, append_eos=True))
        return
    plain = PairEncoder(tokenizer, contract)
    with_eos = PairEncoder(tokenizer, replace(contract, append_eos=True))
    for query, passage in [*pairs(4), (words(300), words(900)), ("", "")]:
        found = one(with_eos, query, passage)
        assert found.ids[-1] == tokenizer.eos_token_id
        assert len(found.ids) == len(found.types) <= contract.longest
        before = one(plain, query, passage)
        if before.ids[-1] == tokenizer.eos_token_id:
            assert found.ids[-2:] != [tokenizer.eos_token_id] * 2
        elif len(before) < contract.longest:
            assert found.ids[:-1] == before.ids


@tokenizers
@pytest.mark.parametrize("truncation", [CARD, DEAR], ids=["card", "dear"])
def test_without_special_tokens_there_are_none(tokenizer: Any, truncation: Any) -> None:
    encoder = PairEncoder(tokenizer, replace(truncation, add_special_tokens=False))
    query, passage = "river bank", "open water"
    found = one(encoder, query, passage)
    texts = (f"query: {query}", f"document: {passage}")
    assert found.ids == bare(tokenizer, texts[0]) + bare(tokenizer, texts[1])


@tokenizers
@pytest.mark.parametrize("contract", [CARD, DEAR], ids=["card", "dear"])
def test_one_by_one_is_the_same_as_all_at_once(tokenizer: Any, contract: Any) -> None:
    encoder = PairEncoder(tokenizer, contract)
    some = [*pairs(8), ("", ""), (words(400), "x")]
    assert encoder.encode(some) == [one(encoder, *pair) for pair in some]
    assert encoder.encode([]) == []


def test_encoding_does_not_change_what_it_gave_before() -> None:
    encoder = PairEncoder(TOKENIZERS["bos"], replace(DEAR, append_eos=True))
    first = one(encoder, "river", "bank")
    ids = list(first.ids)
    encoder.encode([("river", "bank")] * 3)
    assert first.ids == ids


def test_nothing_at_all_is_one_token() -> None:
    """A pooled position needs one."""
    tokenizer = TOKENIZERS["bare"]
    contract = replace(CARD, prompt="plain", add_special_tokens=False)
    assert one(PairEncoder(tokenizer, contract), "", "") == Encoded([tokenizer.pad_token_id], [0])


def test_a_limit_without_room_for_a_token_is_refused() -> None:
    with pytest.raises(ConfigError, match="max_tokens 3 leaves no room beside the 3 special"):
        PairEncoder(TOKENIZERS["bert"], replace(CARD, max_tokens=3))
    PairEncoder(TOKENIZERS["bert"], replace(CARD, max_tokens=4))


def test_a_hundred_thousand_words_take_no_minute() -> None:
    import time

    long = " ".join([words(1000)] * 100)
    for tokenizer in (TOKENIZERS["bert"], TOKENIZERS["bos"]):
        for contract in (CARD, DEAR):
            started = time.process_time()
            found = one(PairEncoder(tokenizer, contract), "river", long)
            assert time.process_time() - started < 20
            assert 196 < len(found) <= 512
