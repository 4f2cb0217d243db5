"""Contract "card": our score is the model card's, transformers' own model being the oracle."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import (
    BOS_ONCE,
    BOS_TWICE,
    llama_tokenizer,
    make,
    pairs,
    save,
    words,
)
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from dear.checkpoints.contract import CARD
from dear.scoring.loading import load_scoring_model
from dear.scoring.scorer import Scorer

KINDS = ("llama", "mistral", "qwen3", "bert", "modernbert")
OTHERS = ("gpt2", "bloom", "roberta")  # learned positions, none at all, counted from the pad id
LONG = [
    (words(3, 1), words(900, 2)),
    (words(900, 3), words(3, 4)),
    (words(600, 5), words(700, 6)),
    (words(700, 7), words(600, 8)),
    (words(250, 9), words(262, 10)),
    ("", ""),
    ("", words(5, 11)),
    (words(5, 12), ""),
    ("the pad </s> inside [SEP] [PAD]", "the text </s>"),
]


def card(folder: Path, some: list[tuple[str, str]]) -> np.ndarray[Any, Any]:
    """The snippet of the model cards, one pair at a time; texts that spell control tokens are
    read as text, which is where we leave the cards on purpose (test_control_tokens.py)."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    scores = []
    for query, document in some:
        inputs = tokenizer(
            f"query: {query}",
            f"document: {document}",
            truncation=True,
            max_length=512,
            split_special_tokens=True,
            return_tensors="pt",
        )
        with torch.no_grad():
            scores.append(model(**inputs).logits.squeeze().item())
    return np.array(scores)


@pytest.mark.parametrize("kind", [*KINDS, *OTHERS])
def test_a_score_is_the_cards(kind: str, tiny: Callable[[str], Path]) -> None:
    some = pairs(6) + LONG
    expected = card(tiny(kind), some)
    scorer = Scorer(load_scoring_model(tiny(kind), dtype="float32"))
    scores = scorer.score(some)
    assert scorer.contract.name == "card"
    assert expected.std() > 0.05  # else the comparison below could not fail
    np.testing.assert_allclose(scores, expected, atol=1e-4)
    assert max(len(e) for e in scorer.encoder.encode(some)) == 512


@pytest.mark.parametrize("template", ["", BOS_ONCE, BOS_TWICE])
@pytest.mark.parametrize("pad", [None, "<unk>", "</s>"])
def test_any_template_and_any_pad_token(template: str, pad: str | None, tmp_path: Path) -> None:
    tokenizer = llama_tokenizer(template, **({"pad_token": pad} if pad else {}))
    folder = save(tmp_path / "model", make("llama"), tokenizer)
    some = pairs(4) + LONG[:1] + LONG[-1:]
    scores = Scorer(load_scoring_model(folder, dtype="float32")).score(some)
    np.testing.assert_allclose(scores, card(folder, some), atol=1e-4)


def test_a_left_truncating_tokenizer_is_left_alone(tmp_path: Path) -> None:
    """The card's snippet cuts where its tokenizer cuts."""
    folder = save(tmp_path / "model", make("llama"), llama_tokenizer(truncation_side="left"))
    some = LONG[:3]
    scores = Scorer(load_scoring_model(folder, dtype="float32")).score(some)
    np.testing.assert_allclose(scores, card(folder, some), atol=1e-4)


def test_card_is_what_the_cards_show() -> None:
    assert (CARD.prompt, CARD.truncation, CARD.max_tokens) == ("dear", "pair", 512)
