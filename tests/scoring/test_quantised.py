"""Weights of 8 and 4 bits: smaller, close to the scores, stamped, adapters beside them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import WORDS, checkpoint, make, pairs

from dear.errors import ConfigError
from dear.scoring.loading import count_parameters, load_scoring_model
from dear.scoring.opening import open_model
from dear.scoring.scorer import Scorer

pytest.importorskip("bitsandbytes", reason="the extra `quant` is not installed")

SOME = pairs(24)
WIDE: dict[str, dict[str, Any]] = {
    "llama": {
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 64,
    },
    "bert": {"hidden_size": 128, "intermediate_size": 256},
}
"""bitsandbytes' 4-bit product on a CPU works on blocks of 64."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def get(kind: str) -> Path:
        if kind not in made:
            made[kind] = checkpoint(tmp_path_factory.mktemp(kind), kind, **WIDE[kind])
        return made[kind]

    return get


def weight_bytes(scorer: Scorer) -> int:
    return sum(p.numel() * p.element_size() for p in scorer.model.model.parameters())


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_fewer_bits_cost_memory_and_little_else(kind: str, folder: Callable[[str], Path]) -> None:
    exact = open_model(folder(kind), dtype="float32")
    assert isinstance(exact, Scorer)
    theirs, bytes_before = exact.score(SOME), weight_bytes(exact)
    for dtype, close in (("int8", 0.98), ("int4", 0.4)):
        opened = open_model(folder(kind), dtype=dtype)  # type: ignore[arg-type]
        assert isinstance(opened, Scorer)
        assert opened.contract.dtype == dtype
        assert opened.fingerprint != exact.fingerprint
        assert opened.parameters == exact.parameters
        assert weight_bytes(opened) < 0.7 * bytes_before
        mine = opened.score(SOME)
        # weights of random noise are the worst case
        assert np.corrcoef(mine, theirs)[0, 1] > close
        assert not np.allclose(mine, theirs, atol=1e-6)
        for name in ("score", "classifier"):
            head = getattr(opened.model.model, name, None)
            if head is not None:
                assert {p.dtype for p in head.parameters()} == {torch.float32}


def test_real_weights_in_four_bits_read_as_before() -> None:
    some = [("open a file", f"def {name}(path): return {name}(path)") for name in WORDS[:8]]
    exact, small = (
        open_model("upr:smollm2-135m", dtype=d).score(some) for d in ("float32", "int4")
    )  # type: ignore[arg-type]
    assert np.corrcoef(small, exact)[0, 1] > 0.9


def test_an_adapter_stays_beside_small_weights(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    base = checkpoint(tmp_path / "base", "llama", **WIDE["llama"])
    torch.manual_seed(1)
    model = make("llama", **WIDE["llama"])
    model.name_or_path = str(base)
    config = peft.LoraConfig(
        task_type="SEQ_CLS", r=4, lora_alpha=64, target_modules=["q_proj"], init_lora_weights=False
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft's own
        peft.get_peft_model(model, config).save_pretrained(tmp_path / "adapter")
    loaded = load_scoring_model(tmp_path / "adapter", dtype="int4")
    assert any("lora_A" in name for name, _ in loaded.model.named_parameters())
    plain = load_scoring_model(base, dtype="int4")
    mine, without = (Scorer(m).score(SOME) for m in (loaded, plain))
    exact = open_model(tmp_path / "adapter", dtype="float32").score(SOME)
    assert np.corrcoef(mine, exact)[0, 1] > np.corrcoef(without, exact)[0, 1]
    assert count_parameters(plain.model) < count_parameters(loaded.model)


def test_a_sharded_model_needs_gpus(folder: Callable[[str], Path]) -> None:
    if torch.cuda.device_count() > 1:
        pytest.skip("with several GPUs nothing is refused: the test below runs instead")
    with pytest.raises(ConfigError, match="PyTorch sees"):
        open_model(folder("bert"), device="sharded")


@pytest.mark.gpu
def test_sharded_scores_are_those_of_one_device(folder: Callable[[str], Path]) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    mine = open_model(folder("llama"), device="sharded", dtype="float32").score(SOME)
    theirs = open_model(folder("llama"), device="cpu", dtype="float32").score(SOME)
    np.testing.assert_allclose(mine, theirs, atol=1e-4)
