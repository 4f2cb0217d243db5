"""An adapter on a base of few bits (QLoRA)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dear.data.collections import Collection
from dear.errors import ConfigError
from dear.train.pointwise import train
from tiny_training import recipe, weights

pytest.importorskip("bitsandbytes")
LORA = {"rank": 2, "alpha": 4.0, "targets": ["q_proj", "up_proj"]}


@pytest.mark.parametrize("bits", ["nf4", "int8"])
def test_an_adapter_is_trained_on_a_base_of_few_bits(
    llama: str, labels: str, tiny: Collection, tmp_path: Path, bits: str
) -> None:
    made = recipe(
        llama,
        labels,
        model={"base": llama, "quantise": bits, "lora": LORA},
        train__epochs=8,
    )
    train(made, tmp_path / "out", collections={"tiny": tiny})
    curve = json.loads((tmp_path / "out" / "dear_training.json").read_text())["metrics"][
        "loss_curve"
    ]
    assert curve[-1]["loss"] < 0.9 * curve[0]["loss"]
    saved = weights(tmp_path / "out")
    assert all("lora_" in name or "score" in name for name in saved)
    assert any(name.endswith("score.weight") for name in saved)


@pytest.mark.parametrize("lora", [None, {**LORA, "merge": True}])
def test_a_base_of_few_bits_needs_an_adapter_beside_it(
    llama: str, labels: str, tiny: Collection, tmp_path: Path, lora: dict[str, object] | None
) -> None:
    model = {"base": llama, "quantise": "nf4"} | ({"lora": lora} if lora else {})
    with pytest.raises(ConfigError, match="trains an adapter on a base that stays"):
        train(recipe(llama, labels, model=model), tmp_path / "x", collections={"tiny": tiny})
