"""The shape of a model without its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import tiny_training
from dear.checkpoints.files import quiet
from dear.errors import ConfigError
from dear.plan.shapes import PUBLISHED, Shape, base_config, meta_model
from dear.recipes import parse_recipe
from dear.train.start import start_list_model, start_model

LORA = {"rank": 4, "targets": ["q_proj", "v_proj", "down_proj"]}

# as the hub's pages of these models have them, language head included
KNOWN = {
    "meta-llama/Llama-2-7b-hf": 6_738_415_616,
    "meta-llama/Llama-2-13b-hf": 13_015_864_320,
    "meta-llama/Llama-3.1-8B": 8_030_261_248,
    "meta-llama/Llama-3.1-8B-Instruct": 8_030_261_248,
    "meta-llama/Llama-3.2-3B": 3_212_749_824,
    "meta-llama/Llama-3.2-1B": 1_235_814_400,
}


def recipe_of(base: str, kind: str = "pointwise", **model: Any) -> Any:
    data = {"lists": ["lists/none"]} if kind == "listwise" else {"collection": "none"}
    return parse_recipe(
        {"name": "shape", "kind": kind, "model": {"base": base, **model}, "data": [data]}
    )


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_bases_have_their_published_size(name: str) -> None:
    shape = Shape.of(meta_model(recipe_of(name, "listwise", dtype="bfloat16")))
    assert shape.parameters == KNOWN[name]


def test_a_head_of_one_logit_replaces_the_language_head() -> None:
    name = "meta-llama/Llama-2-13b-hf"
    shape = Shape.of(meta_model(recipe_of(name, dtype="bfloat16")))
    assert shape.parameters == KNOWN[name] - 32000 * 5120 + 5120
    assert shape.working == shape.parameters - 32000 * 5120
    assert (shape.layers, shape.heads, shape.kv_heads, shape.head_size) == (40, 40, 40, 128)


def test_a_tied_head_is_counted_once_and_works() -> None:
    name = "meta-llama/Llama-3.2-3B"
    listwise = Shape.of(meta_model(recipe_of(name, "listwise", dtype="bfloat16")))
    assert listwise.working == listwise.parameters
    pairs = Shape.of(meta_model(recipe_of(name, dtype="bfloat16")))
    assert pairs.working == pairs.parameters - pairs.embedding


@pytest.mark.parametrize("model", [{}, {"lora": LORA}, {"layers": [1]}])
@pytest.mark.parametrize("kind", ["pointwise", "listwise"])
def test_it_is_the_model_that_training_starts_from(
    tmp_path: Path, kind: str, model: dict[str, Any]
) -> None:
    base = tiny_training.save_llama(tmp_path / "base")
    recipe = recipe_of(base, kind, **model)
    start = start_list_model if kind == "listwise" else start_model
    with quiet():  # of peft
        real, _ = start(recipe.model)
    meta = meta_model(recipe)
    assert {n: (p.shape, p.dtype, p.requires_grad) for n, p in meta.named_parameters()} == {
        n: (p.shape, p.dtype, p.requires_grad) for n, p in real.named_parameters()
    }
    assert all(p.device.type == "meta" for p in meta.parameters())
    assert Shape.of(meta) == Shape.of(real)


def test_an_encoder_too(tmp_path: Path) -> None:
    base = tiny_training.save_bert(tmp_path / "base")
    real, _ = start_model(recipe_of(base).model)
    assert Shape.of(meta_model(recipe_of(base))) == Shape.of(real)


def test_it_takes_no_memory() -> None:
    model = meta_model(recipe_of("meta-llama/Llama-2-13b-hf", dtype="bfloat16"))
    assert all(t.is_meta for t in (*model.parameters(), *model.buffers()))
    assert model.dtype is torch.bfloat16


@pytest.mark.parametrize("name", ["nobody/has-this", "no-such-name"])
def test_an_unknown_base_is_one_line(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        base_config(name)


def test_a_target_that_the_model_lacks_is_named(tmp_path: Path) -> None:
    base = tiny_training.save_llama(tmp_path / "base")
    with pytest.raises(ConfigError, match="nope"):
        meta_model(recipe_of(base, lora={"targets": ["nope"]}))


def test_family_names_stand_for_their_bases() -> None:
    assert base_config("rankllama-13b").hidden_size == 5120
    assert base_config("dear-3b-reranker-ce-v1").num_hidden_layers == 28
