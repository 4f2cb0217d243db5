"""A score is that of the pair alone: no batch, order, neighbour, padding or pad id changes it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import llama_tokenizer, make, pairs, save, words

from dear.checkpoints.contract import CARD, DEAR
from dear.checkpoints.heads import pooled_logits
from dear.errors import BackendError, ConfigError
from dear.scoring import loading
from dear.scoring.batching import in_batches, token_batches
from dear.scoring.engines.padded import PaddedEngine
from dear.scoring.loading import load_scoring_model
from dear.scoring.scorer import Scorer
from dear.scoring.tensors import collate

KINDS = ("llama", "mistral", "qwen3", "bert", "modernbert")
SOME = [*pairs(14, seed=3, longest=120), ("", ""), ("bank </s>", "the pad </s> inside </s>")]


def scorer(folder: Path, batch_tokens: int | None = None, **contract: Any) -> Scorer:
    given = replace(DEAR, **contract)
    return Scorer(
        load_scoring_model(folder, contract=given, dtype=given.dtype), batch_tokens=batch_tokens
    )


def alone(scorer: Scorer) -> np.ndarray[Any, Any]:
    return np.array([scorer.score([pair])[0] for pair in SOME])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", ["right", "left"])
def test_alone_or_in_any_company(kind: str, side: Any, tiny: Callable[[str], Path]) -> None:
    expected = alone(scorer(tiny(kind), dtype="float32"))
    assert expected.std() > 0.1
    rng = np.random.default_rng(0)
    for batch_tokens in (1, 100, 700, 10**6):
        model = scorer(tiny(kind), batch_tokens, dtype="float32", padding_side=side)
        picked = rng.integers(0, len(SOME), 25)  # any order, with duplicates
        scores = model.score([SOME[i] for i in picked])
        np.testing.assert_allclose(scores, expected[picked], atol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "bert"])
@pytest.mark.parametrize(("dtype", "rounding"), [("bfloat16", 2**-8), ("float16", 2**-11)])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_half_precision_to_its_own_rounding(
    kind: str,
    dtype: Any,
    rounding: float,
    attention: str,
    tiny: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What company changes of a score is less than what the dtype changes of it."""
    exact = alone(scorer(tiny(kind), dtype="float32"))
    monkeypatch.setattr(loading, "pick_attention", lambda _device: attention)
    model = scorer(tiny(kind), 10**6, dtype=dtype)
    assert model.contract.dtype == dtype
    assert model.model.model.config._attn_implementation == attention
    half = alone(model)
    error = np.abs(half - exact).max()
    # the last layer's states have sizes of several units
    assert error < 80 * rounding
    np.testing.assert_allclose(model.score(SOME), half, atol=float(error))
    assert len(set(half.tolist())) > 12  # no ties: the head is float32


@pytest.mark.parametrize("pad", ["</s>", "<unk>", "river", None])
def test_any_pad_token_even_one_of_the_text(pad: str | None, tmp_path: Path) -> None:
    options = {} if pad is None else {"pad_token": pad}
    tokenizer = llama_tokenizer(**options)
    # a token of the text's own, and the last one that the model's embedding of 400 holds
    assert len(tokenizer) == (400 if pad == "river" else 399)
    folder = save(tmp_path / "model", make("llama"), tokenizer)
    reference = scorer(folder, dtype="float32", append_eos=True)
    expected = alone(reference)
    for side in ("left", "right"):
        other = scorer(folder, 10**6, dtype="float32", append_eos=True, padding_side=side)
        np.testing.assert_allclose(other.score(SOME), expected, atol=1e-5)
    # and it is the score that another pad token gives
    clean = save(tmp_path / "clean", make("llama"), llama_tokenizer(pad_token="<unk>"))
    pad_free = [i for i, (q, p) in enumerate(SOME) if "river" not in q + p]
    others = alone(scorer(clean, dtype="float32", append_eos=True))
    np.testing.assert_allclose(expected[pad_free], others[pad_free], atol=1e-5)


def test_a_pad_token_that_the_model_lacks_is_replaced(tmp_path: Path) -> None:
    tokenizer = llama_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    folder = save(tmp_path / "model", make("llama", vocab_size=len(tokenizer) - 1), tokenizer)
    model = scorer(folder, 10**6, dtype="float32")
    assert model.model.tokenizer.pad_token == "</s>"
    assert model.model.model.config.pad_token_id == model.model.tokenizer.pad_token_id == 2
    np.testing.assert_allclose(model.score(SOME), alone(model), atol=1e-5)


def test_a_longer_query_than_its_limit_changes_nothing(tiny: Callable[[str], Path]) -> None:
    model = scorer(tiny("llama"), dtype="float32")
    query, passage = words(60, 1), words(400, 2)
    first, longer, other = model.score(
        [
            (query, passage),
            (query + " " + words(500, 3), passage + " " + words(50, 4)),
            ("x " + query, passage),
        ]
    )
    assert first == pytest.approx(longer, abs=1e-6)
    assert abs(first - other) > 1e-3


def test_stream_gives_the_same(tiny: Callable[[str], Path]) -> None:
    model = scorer(tiny("bert"), dtype="float32")
    streamed = list(model.stream(iter(SOME), chunk=5))
    np.testing.assert_allclose(streamed, model.score(SOME), atol=1e-5)
    assert list(model.stream([])) == []


def test_identical_pairs_are_scored_once(
    tiny: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = scorer(tiny("bert"), dtype="float32")
    seen: list[int] = []
    engine = model.engine
    assert isinstance(engine, PaddedEngine)
    forward = engine.forward
    monkeypatch.setattr(engine, "forward", lambda some: seen.append(len(some)) or forward(some))
    scores = model.score([SOME[0], SOME[1], SOME[0], SOME[0]])
    assert sum(seen) == 2
    assert scores[0] == scores[2] == scores[3] != scores[1]


def test_progress_rises_to_the_number_of_pairs(tiny: Callable[[str], Path]) -> None:
    seen: list[tuple[int, int]] = []
    scorer(tiny("bert"), 200).score(SOME * 2, lambda done, total: seen.append((done, total)))
    assert [total for _, total in seen] == [2 * len(SOME)] * len(seen)
    done = [d for d, _ in seen]
    assert done == sorted(done)
    assert done[-1] == 2 * len(SOME)
    assert len(done) > 3


def test_nothing_gives_nothing(tiny: Callable[[str], Path]) -> None:
    scores = scorer(tiny("bert")).score([])
    assert scores.shape == (0,)
    assert scores.dtype == np.float32


def test_a_score_that_is_no_number_names_its_pair(tiny: Callable[[str], Path]) -> None:
    model = scorer(tiny("llama"), dtype="float32")
    with torch.no_grad():
        model.model.model.get_input_embeddings().weight[
            model.model.tokenizer(" bank", add_special_tokens=False)["input_ids"][0]
        ] = torch.nan
    with pytest.raises(BackendError, match=r"nan for query 'x', passage '.*bank.*'.*float32"):
        model.score([("x", "y"), ("x", "bank")])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_whatever_is_not_finite_is_no_score(value: float, tiny: Callable[[str], Path]) -> None:
    model = scorer(tiny("bert"), dtype="float32")
    with torch.no_grad():
        model.model.model.classifier.bias.fill_(value)
    with pytest.raises(BackendError, match=f"score {value} for query 'x', passage 'y'; try dtype"):
        model.score([("x", "y"), ("x", "z")])


def test_batches_hold_everything_once_within_the_budget() -> None:
    rng = np.random.default_rng(1)
    for budget in (1, 50, 300):
        lengths = rng.integers(1, 120, 60).tolist()
        batches = token_batches(lengths, budget)
        assert sorted(i for b in batches for i in b) == list(range(60))
        for batch in batches:
            assert len(batch) == 1 or max(lengths[i] for i in batch) * len(batch) <= budget
    assert token_batches([], 10) == []


def test_in_batches_keeps_the_order() -> None:
    texts = ["a" * n for n in (3, 1, 4, 1, 5, 9, 2, 6)]
    found = in_batches(texts, 10, lambda some: np.array([len(t) for t in some], dtype=np.float32))
    assert found.tolist() == [len(t) for t in texts]


@pytest.mark.parametrize("batch_tokens", [0, -5])
def test_a_batch_of_no_tokens_is_refused(batch_tokens: int, tiny: Callable[[str], Path]) -> None:
    with pytest.raises(ConfigError, match="batch_tokens must be 1 or more"):
        scorer(tiny("bert"), batch_tokens)


def test_pooling_sees_the_mask_alone(tiny: Callable[[str], Path]) -> None:
    """Whatever stands in the padding, the logit is the same."""
    loaded = load_scoring_model(tiny("llama"), contract=CARD, dtype="float32")
    encoded = Scorer(loaded).encoder.encode(SOME[:5])
    for side in ("right", "left"):
        logits = [
            pooled_logits(loaded.model, *collate(encoded, pad_id=pad, side=side)) for pad in (0, 77)
        ]
        torch.testing.assert_close(logits[0], logits[1], atol=1e-5, rtol=0)
