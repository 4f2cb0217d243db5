"""A simulated step against PyTorch's own books of a real one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import tiny_training
from dear.checkpoints.files import quiet
from dear.checkpoints.heads import pooled_logits
from dear.plan.shapes import Shape, meta_model
from dear.plan.simulating import fused_attention, simulate, training_pass
from dear.plan.work import Setup, forward_flops, training_flops
from dear.recipes import parse_recipe
from dear.train.start import start_model

PAIRS, TOKENS = 6, 40
LORA = {"rank": 4, "targets": ["q_proj", "v_proj", "down_proj"]}


def recipe_of(base: str, **model: Any) -> Any:
    return parse_recipe(
        {
            "name": "step",
            "model": {"base": base, **model},
            "data": [{"collection": "none"}],
            "groups": {"size": PAIRS},
            "train": {"groups_per_step": 1},
        }
    )


def forward(model: Any) -> torch.Tensor:
    ids = torch.ones(PAIRS, TOKENS, dtype=torch.int64)
    return pooled_logits(model, ids, torch.ones_like(ids)).pow(2).sum()


def really_saved(model: Any) -> int:
    """Bytes that autograd keeps of a real forward pass, weights aside."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, Any] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = forward(model)
    assert loss.requires_grad
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize("save", [tiny_training.save_llama, tiny_training.save_bert])
def test_what_is_kept_is_what_autograd_keeps(tmp_path: Path, save: Callable[[Path], str]) -> None:
    recipe = recipe_of(save(tmp_path / "base"))
    real, _ = start_model(recipe.model)
    real.set_attn_implementation("eager")
    step = simulate(meta_model(recipe, attention="eager"), forward)
    assert step.saved == pytest.approx(really_saved(real.train()), rel=0.05)
    assert step.peak > step.saved


def test_checkpointing_keeps_less_and_an_adapter_no_gradients(tmp_path: Path) -> None:
    base = tiny_training.save_llama(tmp_path / "base")
    plain = simulate(meta_model(recipe_of(base)), forward)
    again = simulate(meta_model(recipe_of(base)), forward, checkpointing=True)
    assert again.saved < plain.saved / 2
    assert again.peak < plain.peak
    adapter = simulate(meta_model(recipe_of(base, lora=LORA)), forward, checkpointing=True)
    assert adapter.saved > 0  # gradients reach the adapters through the embedding's output


def test_autocast_keeps_half_of_most(tmp_path: Path) -> None:
    recipe = recipe_of(tiny_training.save_llama(tmp_path / "base"))
    with fused_attention() as fused:
        plain = simulate(meta_model(recipe, attention=fused), forward)
        mixed = simulate(meta_model(recipe, attention=fused), forward, autocast=True)
    assert plain.saved / 2 < mixed.saved < plain.saved * 1.1


def test_gradients_that_stay_are_counted(tmp_path: Path) -> None:
    recipe = recipe_of(tiny_training.save_llama(tmp_path / "base"))
    gone = simulate(meta_model(recipe), forward)
    kept = simulate(meta_model(recipe), forward, keep_gradients=True)
    assert kept.saved == gone.saved
    assert kept.peak >= gone.peak


def test_fused_attention_keeps_no_table_of_every_two_tokens(tmp_path: Path) -> None:
    recipe = recipe_of(tiny_training.save_llama(tmp_path / "base"))
    eager = simulate(meta_model(recipe, attention="eager"), forward)
    with fused_attention() as name:
        fused = simulate(meta_model(recipe, attention=name), forward)
    assert fused.saved < eager.saved


@pytest.mark.parametrize("checkpointing", [False, True])
def test_deep_models_follow_a_straight_line(tmp_path: Path, checkpointing: bool) -> None:
    """training_pass simulates 2 and 4 layers; the whole model must agree."""
    base = tiny_training.save_bert(tmp_path / "base", layers=9)
    recipe = parse_recipe(
        {
            "name": "deep",
            "model": {"base": base},
            "data": [{"collection": "none"}],
            "groups": {"size": PAIRS},
            "train": {
                "groups_per_step": 1,
                "gradient_checkpointing": checkpointing,
                "autocast": False,
            },
        }
    )
    setup = Setup.of(recipe, devices=1, on_cpu=True)
    shape = Shape.of(meta_model(recipe))
    step = training_pass(setup, shape, tokens=TOKENS, answer=0)
    whole = simulate(meta_model(recipe, attention="eager"), forward, checkpointing=checkpointing)
    assert step.activations == pytest.approx(whole.saved, rel=0.01)
    assert step.peak == pytest.approx(whole.peak, rel=0.02)


@pytest.mark.parametrize("model", [{}, {"lora": LORA}])
def test_arithmetic_is_what_pytorch_counts(tmp_path: Path, model: dict[str, Any]) -> None:
    recipe = recipe_of(tiny_training.save_llama(tmp_path / "base"), **model)
    with quiet():  # of peft
        real, _ = start_model(recipe.model)
    real.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as once:
        loss = forward(real)
    with FlopCounterMode(display=False) as back:
        loss.backward()
    shape = Shape.of(real)
    planned = forward_flops(shape, PAIRS, TOKENS, head_tokens=0)
    assert planned == pytest.approx(once.get_total_flops(), rel=0.1)
    both = once.get_total_flops() + back.get_total_flops()
    setup = Setup.of(recipe, devices=1)
    assert training_flops(setup, shape, planned) == pytest.approx(both, rel=0.25)
