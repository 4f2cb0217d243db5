"""What a recipe says about weights and precision, before a model is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dear.checkpoints.files import quiet
from dear.errors import ConfigError
from dear.recipes import ModelRecipe, TrainRecipe
from dear.recipes.training import LoraRecipe
from dear.train import start
from dear.train.start import reporters, require_adapter, start_model, training_arguments
from tiny_training import recipe

KEPT, MERGED = LoraRecipe(targets=("query",)), LoraRecipe(targets=("query",), merge=True)


@pytest.mark.parametrize("quantise", ["none", "nf4", "int8"])
@pytest.mark.parametrize("lora", [None, KEPT, MERGED], ids=["full", "kept", "merged"])
def test_few_bits_need_an_adapter_that_is_kept(quantise: Any, lora: LoraRecipe | None) -> None:
    model = ModelRecipe(base="x", quantise=quantise, lora=lora)
    if quantise == "none" or lora is KEPT:
        require_adapter(model)
    else:
        with pytest.raises(ConfigError, match=f'quantise = "{quantise}" trains an adapter on a'):
            require_adapter(model)


def test_an_adapter_of_fewer_layers_must_be_merged(bert: str) -> None:
    with pytest.raises(ConfigError, match=r"set model\.lora\.merge=true"):
        start_model(ModelRecipe(base=bert, layers=(0,), lora=KEPT))
    with quiet():
        model, _ = start_model(ModelRecipe(base=bert, layers=(0,), lora=MERGED))
        full, _ = start_model(ModelRecipe(base=bert, lora=KEPT))
    assert (model.config.num_hidden_layers, full.config.num_hidden_layers) == (1, 2)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("able", [False, True])
def test_autocast_is_for_float32_weights_where_it_is_fast(
    autocast: bool, dtype: str, able: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start, "pick_device", lambda _: torch.device("cpu"))
    monkeypatch.setattr(start, "has_bfloat16", lambda _: able)
    made = recipe("x", train__autocast=autocast, model__dtype=dtype)
    assert training_arguments(made, tmp_path).bf16 == (autocast and able and dtype == "float32")


@pytest.mark.parametrize(
    ("to", "first", "count"),
    [("none", 0, 0), ("wandb", 0, 0), ("tensorboard", 0, 1), ("tensorboard", 1, 0)],
)
def test_tensorboard_is_written_by_the_first_process_alone(
    to: str, first: int, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start, "rank", lambda: first)
    assert len(reporters(TrainRecipe(report_to=to), tmp_path, 0)) == count
    assert (tmp_path / "tensorboard").exists() == (count == 1)
