"""An explained score is the score, and its tokens are those that were read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tiny_models import checkpoint, words

from dear.checkpoints.contract import CARD, DEAR, ScoringContract
from dear.scoring.loading import load_scoring_model
from dear.scoring.scorer import Scorer

CONTRACTS = {
    "whole pairs": replace(CARD, max_tokens=40),
    "each text": replace(DEAR, max_query_tokens=8, max_passage_tokens=20),
    "end token": replace(CARD, max_tokens=40, append_eos=True),
    "no limit met": CARD,
}


@pytest.mark.parametrize("contract", CONTRACTS.values(), ids=CONTRACTS.keys())
@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_it_shows_what_was_scored(kind: str, contract: ScoringContract, tmp_path: Path) -> None:
    if contract.append_eos and kind == "bert":
        contract = replace(contract, append_eos=False)
    folder = checkpoint(tmp_path / kind, kind)
    scorer = Scorer(load_scoring_model(folder, contract=contract, dtype="float32", device="cpu"))
    pair = (words(12, 1), words(60, 2))
    found = scorer.explain(*pair)
    (encoded,) = scorer.encoder.encode([pair])
    assert [token.id for token in found.tokens if token.read] == encoded.ids
    assert found.cut == len(found.tokens) - len(encoded.ids)
    assert (found.cut == 0) == (contract == CARD)
    assert scorer.cut_pairs([pair, ("a", "b")]) == [found.cut > 0, False]
    # every word of both texts is there, read or not
    shown = "".join(token.text for token in found.tokens).replace("▁", "").replace("Ġ", "")
    assert pair[1].split()[-1] in shown
    assert found.logit == scorer.score([pair])[0]
    assert found.plain == pytest.approx(found.logit, abs=1e-5)
    assert found.position == (len(encoded.ids) - 1 if kind == "llama" else 0)
    assert found.engine == scorer.engine_name
    assert found.contract == scorer.contract.to_dict()
    assert found.to_dict()["tokens"][0]["id"] == encoded.ids[0]
