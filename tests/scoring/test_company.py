"""Architectures that look at padding are found out, and a score is that of the pair alone."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from tiny_models import ENCODER, bert_tokenizer, make, pairs, save

from dear import Reranker
from dear.checkpoints import hardware
from dear.errors import ConfigError
from dear.scoring.batching import ONE_LENGTH, token_batches

SOME = [*pairs(8, seed=1, longest=50), ("a", "b"), ("river bank", "water")]

SMALL = {"vocab_size": 200, "num_labels": 1}
LEAKY: dict[str, Callable[[], Any]] = {
    "convbert": lambda: hf.ConvBertConfig(**ENCODER | {"num_labels": 1, "embedding_size": 32}),
    "nystromformer": lambda: hf.NystromformerConfig(**ENCODER | {"num_labels": 1}),
    "fnet": lambda: hf.FNetConfig(
        hidden_size=32, num_hidden_layers=2, intermediate_size=48, initializer_range=0.2, **SMALL
    ),
    "xlnet": lambda: hf.XLNetConfig(
        d_model=32, n_layer=2, n_head=4, d_inner=48, initializer_range=0.2, **SMALL
    ),
    "funnel": lambda: hf.FunnelConfig(
        block_sizes=[1, 1], d_model=32, n_head=4, d_head=8, d_inner=48, initializer_range=0.2,
        **SMALL,
    ),
}  # fmt: skip


def random_model(config: Any, auto: Any) -> Any:
    torch.manual_seed(0)
    model = auto.from_config(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" not in name.lower():
                weight.copy_(torch.randn_like(weight) * 0.2)
    return model


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if "looks at the padding" in r.getMessage()]


NO_BFLOAT16 = ("fnet", "xlnet")
"""Fourier transforms, and code that mixes dtypes, know float32 alone."""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", LEAKY)
def test_a_score_is_that_of_the_pair_alone(
    kind: str, dtype: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = random_model(LEAKY[kind](), hf.AutoModelForSequenceClassification)
    folder = save(tmp_path / "m", model, bert_tokenizer())
    if dtype == "bfloat16" and kind in NO_BFLOAT16:
        with pytest.raises(ConfigError, match="does not compute in bfloat16; take float32"):
            Reranker(folder, dtype=dtype, contract="plain")
        return
    caplog.set_level(logging.WARNING)
    reranker: Any = Reranker(folder, dtype=dtype, contract="plain")
    together = reranker.score(SOME)
    alone = np.array([reranker.score([pair])[0] for pair in SOME])
    spread = float(np.ptp(alone))
    assert spread > 1e-3
    rounding = 1e-5 if dtype == "float32" else 0.05
    np.testing.assert_allclose(together, alone, atol=rounding * spread + 1e-6)
    if kind != "funnel":  # it hides its padding
        assert reranker.model.engine.grid == ONE_LENGTH
        assert len(warnings_of(caplog)) == 1


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("reading", ["", "biencoder:"])
def test_what_knows_float32_alone_is_read_in_it(
    reading: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "cpu_has_bfloat16", lambda: True)
    auto = hf.AutoModel if reading else hf.AutoModelForSequenceClassification
    folder = save(tmp_path / "m", random_model(LEAKY["fnet"](), auto), bert_tokenizer())
    found = Reranker(f"{reading}{folder}", device="cpu")
    exact = Reranker(f"{reading}{folder}", device="cpu", dtype="float32")
    np.testing.assert_array_equal(found.score(SOME), exact.score(SOME))


@pytest.mark.filterwarnings("ignore")
def test_the_scores_are_transformers_own(tmp_path: Path) -> None:
    model = random_model(LEAKY["convbert"](), hf.AutoModelForSequenceClassification)
    tokenizer = bert_tokenizer()
    folder = save(tmp_path / "m", model, tokenizer)
    expected = []
    for pair in SOME:
        with torch.no_grad():
            expected.append(float(model(**tokenizer(*pair, return_tensors="pt")).logits[0, 0]))
    found = Reranker(folder, dtype="float32", contract="plain").score(SOME)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["bert", "roberta", "modernbert", "llama", "gemma2"])
def test_others_are_padded_as_ever(
    kind: str, tiny: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    for dtype in ("float32", "bfloat16"):
        reranker: Any = Reranker(tiny(kind), dtype=dtype, contract="plain")  # type: ignore[arg-type]
        engine = getattr(reranker.model.engine, "padded", reranker.model.engine)
        assert not engine.grid.equal
    assert not warnings_of(caplog)


@pytest.mark.filterwarnings("ignore")
def test_a_biencoder_that_looks_at_padding(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = random_model(LEAKY["fnet"](), hf.AutoModel)
    folder = save(tmp_path / "m", model, bert_tokenizer())
    reranker = Reranker(f"biencoder:{folder}", dtype="float32")
    assert len(warnings_of(caplog)) == 1
    together = reranker.score(SOME)
    for pair, score in zip(SOME, together, strict=True):
        alone = Reranker(f"biencoder:{folder}", dtype="float32").score([pair])[0]
        assert score == pytest.approx(alone, abs=1e-5)
    plain = save(tmp_path / "bert", make("bert", hf.AutoModel), bert_tokenizer())
    caplog.clear()
    Reranker(f"biencoder:{plain}", dtype="float32")
    assert not warnings_of(caplog)


def test_batches_of_one_length() -> None:
    lengths = [int(n) for n in np.random.default_rng(0).integers(1, 9, 200)]
    batches = token_batches(lengths, 24, ONE_LENGTH)
    assert sorted(i for batch in batches for i in batch) == list(range(200))
    for batch in batches:
        assert len({lengths[i] for i in batch}) == 1
        assert len(batch) * lengths[batch[0]] <= 24 or len(batch) == 1
