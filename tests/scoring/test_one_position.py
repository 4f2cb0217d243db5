"""The last layer computes for the token that is read, and no score changes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import CONFIGS, checkpoint, pairs

from dear.checkpoints.heads import read_positions
from dear.scoring.encoding import Encoded, PairEncoder
from dear.scoring.engines.one_position import reading, reads_one
from dear.scoring.engines.padded import PaddedEngine
from dear.scoring.engines.prefix import PrefixEngine
from dear.scoring.loading import ScoringModel, load_scoring_model

# transformers has no granite classifier
KINDS = sorted(set(CONFIGS) - {"granite"})


def load(folder: Path, **options: Any) -> ScoringModel:
    return load_scoring_model(folder, **{"dtype": "float32", "device": "cpu"} | options)


def encode(model: ScoringModel, count: int = 24) -> list[Encoded]:
    return PairEncoder(model.tokenizer, model.contract).encode(pairs(count))


def tokens_multiplied(model: ScoringModel, run: Callable[[], Any]) -> dict[str, int]:
    """Name of each linear module of the last layer → tokens that it was given."""
    seen: dict[str, int] = {}
    last = f".{model.model.config.get_text_config().num_hidden_layers - 1}."
    hooks = []
    for name, module in model.model.named_modules():
        if last in name and isinstance(module, torch.nn.Linear):

            def watch(_module: Any, inputs: Any, _output: Any, name: str = name) -> None:
                seen[name.split(last)[1]] = inputs[0].shape[:-1].numel()

            hooks.append(module.register_forward_hook(watch))
    run()
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_transformers_own(kind: str, tiny: Callable[[str], Path]) -> None:
    model = load(tiny(kind))
    encoded = encode(model)
    whole = PaddedEngine(model, 700, whole=True).run(encoded)
    assert reads_one(model)
    assert np.ptp(whole) > 0.1
    np.testing.assert_allclose(PaddedEngine(model, 700).run(encoded), whole, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "everywhere", "once"),
    [
        ("llama", ("q_proj", "k_proj", "v_proj"), ("o_proj", "gate_proj", "up_proj", "down_proj")),
        ("bert", ("query", "key", "value"), ("output.dense", "intermediate.dense")),
    ],
)
def test_products_behind_the_attention_are_made_once_a_sequence(
    kind: str, everywhere: Sequence[str], once: Sequence[str], tiny: Callable[[str], Path]
) -> None:
    model = load(tiny(kind))
    encoded = encode(model, 6)
    engine = PaddedEngine(model, 10**6)
    seen = tokens_multiplied(model, lambda: engine.forward(encoded))
    width = max(map(len, encoded))
    for name, tokens in seen.items():
        assert tokens == (6 if name.endswith(tuple(once)) else 6 * width), name
    assert {n for n in seen if n.endswith(tuple(everywhere))}
    assert {n for n in seen if n.endswith(tuple(once))}
    # outside, nothing is left out: training reads the same modules
    engine = PaddedEngine(model, 10**6, whole=True)
    assert set(tokens_multiplied(model, lambda: engine.forward(encoded)).values()) == {6 * width}


def test_a_head_that_reads_all_tokens_keeps_them(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "mean", "modernbert", classifier_pooling="mean")
    model = load(folder)
    encoded = encode(model)
    assert not reads_one(model)
    whole = PaddedEngine(model, 700, whole=True).run(encoded)
    np.testing.assert_array_equal(PaddedEngine(model, 700).run(encoded), whole)
    # nothing of the trial stays behind; the head casts its input
    bodies = (m for name, m in model.model.named_modules() if name != "classifier")
    assert not any(module._forward_pre_hooks for module in bodies)


def test_padding_on_either_side(tiny: Callable[[str], Path]) -> None:
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 0], [0, 1, 0, 0]])
    model = load(tiny("llama"))
    assert read_positions(model.model, mask).tolist() == [3, 2, 1]
    assert read_positions(load(tiny("bert")).model, mask).tolist() == [0, 0, 0]


def test_shared_prefixes_read_one_position_too(tiny: Callable[[str], Path]) -> None:
    model = load(tiny("llama"))
    query = "river bank water open file read write close python code"
    some = [(query, passage) for _, passage in pairs(12)]
    encoded = PairEncoder(model.tokenizer, model.contract).encode(some)
    engine = PrefixEngine(model, 10**6, set_tokens=4, pass_tokens=0)
    assert engine.passes(encoded)
    seen = tokens_multiplied(model, lambda: engine.run(encoded))
    assert {n: t for n, t in seen.items() if n.startswith("mlp")} == {
        f"mlp.{name}_proj": 12 for name in ("gate", "up", "down")
    }
    whole = PaddedEngine(model, 1, whole=True).run(encoded)
    np.testing.assert_allclose(engine.run(encoded), whole, atol=1e-5)


def test_a_live_adapter_is_cut_with_its_layer(tiny: Callable[[str], Path], tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    base = load(tiny("llama"))
    config = peft.LoraConfig(r=4, target_modules="all-linear", task_type="SEQ_CLS")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by an old name
        adapted = peft.get_peft_model(base.model, config)
    torch.manual_seed(0)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    model = ScoringModel(**{**vars(base), "model": adapted.eval()})
    encoded = encode(model)
    whole = PaddedEngine(model, 700, whole=True).run(encoded)
    assert reads_one(model)
    np.testing.assert_allclose(PaddedEngine(model, 700).run(encoded), whole, atol=1e-5)
    assert np.abs(whole - PaddedEngine(load(tiny("llama")), 700).run(encoded)).max() > 0.05


def test_gradients_are_those_of_the_whole_layer(tiny: Callable[[str], Path]) -> None:
    """`reading` is arithmetic, not a trick of inference: what is cut off had no gradient."""
    model = load(tiny("bert"))
    assert reads_one(model)
    ids = torch.tensor([[2, 9, 11, 12, 3], [2, 8, 13, 14, 3]])
    mask = torch.ones_like(ids)

    def gradients() -> list[torch.Tensor]:
        model.model.zero_grad()
        model.model(input_ids=ids, attention_mask=mask).logits.sum().backward()
        return [p.grad.clone() for p in model.model.parameters() if p.grad is not None]

    whole = gradients()
    with reading(read_positions(model.model, mask)):
        cut = gradients()
    for one, other in zip(cut, whole, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
