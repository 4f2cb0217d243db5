"""Packed sequences have the scores that they have alone; what cannot be packed is refused."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import (
    CONFIGS,
    ENCODERS,
    bert_tokenizer,
    checkpoint,
    llama_tokenizer,
    make,
    pairs,
)

from dear.checkpoints.contract import DEAR
from dear.checkpoints.heads import bare_model, float32_head, pool_by_mask
from dear.errors import ConfigError
from dear.scoring.encoding import Encoded
from dear.scoring.engines.packed import ATTENTION, PackedEngine, packs
from dear.scoring.engines.padded import PaddedEngine
from dear.scoring.loading import ScoringModel
from dear.scoring.opening import open_model

SHORT: dict[str, dict[str, Any]] = {"mistral": {"sliding_window": 5}}
KINDS = ("llama", "mistral", "qwen3", "gpt2", "bert", "roberta", "modernbert")
OTHERS = ("gemma2", "bloom")
"""A soft cap, ALiBi: attention that is not softmax(q k) v."""


@functools.cache
def tiny(kind: str, dtype: str = "float32", attention: str = "eager") -> ScoringModel:
    model = make(kind, **SHORT.get(kind, {})).to(getattr(torch, dtype))
    model.set_attn_implementation(attention)
    pool_by_mask(model)
    float32_head(model)
    tokenizer = bert_tokenizer() if kind in ENCODERS else llama_tokenizer(pad_token="</s>")
    return ScoringModel(
        model=model.eval(),
        tokenizer=tokenizer,
        contract=DEAR.with_dtype(dtype),  # type: ignore[arg-type]
        name=kind,
        revision="0",
        device=torch.device("cpu"),
    )


def some(count: int, seed: int = 0, longest: int = 90) -> list[Encoded]:
    rng = np.random.default_rng(seed)
    lengths = [1, 2, *rng.integers(1, longest, count - 2)]
    return [
        Encoded(rng.integers(5, 60, n).tolist(), [0] * (n // 2) + [1] * (n - n // 2))
        for n in map(int, lengths)
    ]


def test_every_kind_is_tried() -> None:
    assert {*KINDS, *OTHERS, "granite"} == set(CONFIGS)


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_those_of_each_alone(kind: str) -> None:
    model, encoded = tiny(kind), some(30)
    assert packs(model)
    expected = PaddedEngine(model, 1).run(encoded)
    assert expected.std() > 0.05
    for batch_tokens in (1, 90, 700, 10**6):
        scores = PackedEngine(model, batch_tokens).run(encoded)
        assert scores.dtype == np.float32
        np.testing.assert_allclose(scores, expected, atol=2e-5)


@pytest.mark.parametrize("kind", ["llama", "bert"])
@settings(max_examples=15)
@given(lengths=st.lists(st.integers(1, 40), max_size=20), batch_tokens=st.integers(1, 200))
def test_any_lengths(kind: str, lengths: list[int], batch_tokens: int) -> None:
    model = tiny(kind)
    encoded = [Encoded([5 + i % 50 for i in range(n)], [0] * n) for n in lengths]
    expected = PaddedEngine(model, 1).run(encoded) if encoded else np.empty(0)
    np.testing.assert_allclose(PackedEngine(model, batch_tokens).run(encoded), expected, atol=2e-5)


@pytest.mark.parametrize("kind", OTHERS)
def test_another_attention_is_refused(kind: str) -> None:
    assert not packs(tiny(kind))


@pytest.mark.parametrize("kind", ["llama", "bert", "modernbert"])
def test_the_model_is_left_as_it_was(kind: str) -> None:
    model, encoded = tiny(kind, attention="sdpa"), some(6)
    bare = bare_model(model.model)
    body = getattr(bare, bare.base_model_prefix)
    before = PaddedEngine(model, 300).run(encoded)
    PackedEngine(model, 300).run(encoded)
    assert body.config._attn_implementation == "sdpa" != ATTENTION
    assert "forward" not in vars(body)
    np.testing.assert_array_equal(PaddedEngine(model, 300).run(encoded), before)


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_bfloat16_loses_no_more_than_padded(kind: str) -> None:
    encoded = some(24)
    exact = PaddedEngine(tiny(kind), 1).run(encoded)
    half = tiny(kind, "bfloat16")
    assert packs(half)
    packed = np.abs(PackedEngine(half, 400).run(encoded) - exact).max()
    padded = np.abs(PaddedEngine(half, 400).run(encoded) - exact).max()
    assert packed <= 2 * padded + 1e-3


def test_progress_rises_to_the_total() -> None:
    seen: list[tuple[int, int]] = []
    PackedEngine(tiny("llama"), 90).run(some(12), lambda *now: seen.append(now), 24)
    assert seen[-1] == (24, 24)
    assert seen == sorted(seen)
    assert len(seen) > 2


def _varlen(q: Any, k: Any, v: Any, ends_q: Any, ends_k: Any, *_: int, **given: Any) -> Any:
    """PyTorch's varlen attention as it is documented, a sequence at a time."""
    left, right = given["window_size"]
    out = torch.empty_like(q)
    for first, last in itertools.pairwise(ends_q.tolist()):
        places = torch.arange(last - first)
        distance = places[:, None] - places[None, :]
        seen = (distance <= left) | (left < 0)
        seen &= (-distance <= right) | (right < 0)
        part = [x[first:last].transpose(0, 1) for x in (q, k, v)]
        found = torch.nn.functional.scaled_dot_product_attention(
            *part, attn_mask=seen, scale=given["scale"], enable_gqa=True
        )
        out[first:last] = found.transpose(0, 1)
    return out


def varlen_of_2_11(
    q: Any,
    k: Any,
    v: Any,
    ends_q: Any,
    ends_k: Any,
    max_q: int,
    max_k: int,
    *,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
) -> Any:
    return _varlen(q, k, v, ends_q, ends_k, scale=scale, window_size=window_size)


def varlen_of_2_13(*args: Any, enable_gqa: bool = False, **options: Any) -> Any:
    assert enable_gqa or args[0].shape[1] == args[1].shape[1]
    return _varlen(*args, **options)


@pytest.mark.parametrize("varlen", [varlen_of_2_11, varlen_of_2_13])
@pytest.mark.parametrize("kind", ["llama", "mistral", "bert", "modernbert"])
def test_what_a_gpu_would_be_asked(kind: str, varlen: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel runs on GPUs alone; here its documented meaning stands in for it."""
    from torch.nn.attention import varlen as module

    from dear.scoring.engines import packed

    def on_gpu(_: Any, query: Any, key: Any, value: Any, mask: Any, **given: Any) -> Any:
        causal = bool(given.get("is_causal", getattr(_, "is_causal", True)))
        window = given.get("sliding_window")
        layout, scaling = packed._layout.get(), given.get("scaling")
        return packed._on_gpu(layout, query, key, value, scaling, causal, window), None

    monkeypatch.setattr(module, "varlen_attn", varlen)
    monkeypatch.setattr(packed, "packed_attention", on_gpu)
    model, encoded = tiny(kind), some(12)
    expected = PaddedEngine(model, 1).run(encoded)
    np.testing.assert_allclose(PackedEngine(model, 200).run(encoded), expected, atol=2e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_on_a_gpu(kind: str) -> None:
    encoded = some(40)
    exact = PaddedEngine(tiny(kind), 1).run(encoded)
    there = tiny.__wrapped__(kind, "bfloat16")
    there.model.to("cuda")
    moved = ScoringModel(**{**vars(there), "device": torch.device("cuda")})
    assert packs(moved)
    scores = PackedEngine(moved, 700).run(encoded)
    assert np.corrcoef(scores, exact)[0, 1] > 0.99


def test_engines_by_name(tmp_path: Any) -> None:
    folder = checkpoint(tmp_path / "bert", "bert")
    some_pairs = pairs(12)
    packed, padded = (
        open_model(folder, dtype="float32", engine=engine) for engine in ("packed", "padded")
    )
    assert isinstance(packed.engine, PackedEngine)  # type: ignore[attr-defined]
    np.testing.assert_allclose(packed.score(some_pairs), padded.score(some_pairs), atol=2e-5)
    with pytest.raises(ConfigError, match="'prefix' would change its scores"):
        open_model(folder, engine="prefix")
    with pytest.raises(ConfigError, match=r"no engine 'paked'.*packed"):
        open_model(folder, engine="paked")  # type: ignore[arg-type]
