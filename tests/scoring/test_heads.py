"""The head: float32 whatever the body is, pooled by the mask whatever wraps the model."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import make, pairs
from torch import nn

from dear.checkpoints.contract import DEAR
from dear.checkpoints.heads import is_head, pool_by_mask, pooled_logits, pools_by_mask
from dear.scoring.loading import load_scoring_model
from dear.scoring.scorer import Scorer
from dear.scoring.tensors import collate

Tiny = Callable[[str], Path]
SOME = pairs(6, seed=9)


def head_of(model: Any) -> nn.Module:
    return model.score if hasattr(model, "score") else model.classifier


@pytest.mark.parametrize("kind", ["llama", "bert", "modernbert"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_head_is_float32_and_stays_so(kind: str, dtype: Any, tiny: Tiny) -> None:
    loaded = load_scoring_model(tiny(kind), dtype=dtype)
    body = {p.dtype for n, p in loaded.model.named_parameters() if "weight" in n and not is_head(n)}
    assert body == {getattr(torch, dtype)}
    head = head_of(loaded.model)
    before = Scorer(loaded).score(SOME)
    loaded.model.to("cpu")
    assert {p.dtype for p in head.parameters()} == {torch.float32}
    np.testing.assert_array_equal(Scorer(loaded).score(SOME), before)
    # a cast of the whole model is undone before the head computes
    loaded.model.to(getattr(torch, dtype))
    after = Scorer(loaded).score(SOME)
    assert {p.dtype for p in head.parameters()} == {torch.float32}
    np.testing.assert_allclose(after, before, atol=0.4)  # the body's rotary angles are rounded
    seen: list[torch.dtype] = []
    head.register_forward_hook(lambda _module, _inputs, out: seen.append(out.dtype))
    Scorer(loaded).score(SOME[:1])
    assert seen == [torch.float32]


class Wrapped(nn.Module):
    """What DistributedDataParallel looks like from outside; it counts its calls."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.calls = 0

    def forward(self, **inputs: Any) -> Any:
        self.calls += 1
        return self.module(**inputs)


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_a_wrapper_is_called_and_changes_nothing(kind: str, tiny: Tiny) -> None:
    """Else gradients would not be averaged over devices, or the pad id would pool."""
    loaded = load_scoring_model(tiny(kind), contract=DEAR, dtype="float32")
    batch = collate(Scorer(loaded).encoder.encode([*SOME, ("</s>", "</s> </s>")]), pad_id=2)
    wrapped = Wrapped(make(kind))
    assert pools_by_mask(wrapped) == (kind == "llama")
    with torch.no_grad():
        torch.testing.assert_close(
            pooled_logits(wrapped, *batch), pooled_logits(loaded.model, *batch)
        )
    assert wrapped.calls == 1


def test_a_copy_of_a_model_pools_with_its_own_weights(tiny: Tiny) -> None:
    loaded = load_scoring_model(tiny("llama"), dtype="float32")
    twin = copy.deepcopy(loaded.model)
    with torch.no_grad():
        twin.score.weight.zero_()
        ids = torch.arange(9).unsqueeze(0) + 5
        assert pooled_logits(twin, ids, torch.ones_like(ids)).item() == 0
        assert pooled_logits(loaded.model, ids, torch.ones_like(ids)).item() != 0


def test_gradients_reach_every_weight(tiny: Tiny) -> None:
    model = make("llama")
    pool_by_mask(model)
    ids = torch.arange(18).view(2, 9) + 5
    pooled_logits(model, ids, torch.ones_like(ids)).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_pooling_twice_is_pooling_once() -> None:
    model = make("llama")
    pool_by_mask(model)
    forward = model.forward
    pool_by_mask(model)
    assert model.forward == forward
    encoder = make("bert")
    pool_by_mask(encoder)
    assert "forward" not in vars(encoder)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["llama", "qwen3", "bert", "modernbert"])
def test_a_gpu_gives_the_scores_of_the_cpu(kind: str, tiny: Tiny) -> None:
    cpu = Scorer(load_scoring_model(tiny(kind), dtype="float32", device="cpu")).score(SOME)
    gpu = Scorer(load_scoring_model(tiny(kind), dtype="float32", device="cuda")).score(SOME)
    np.testing.assert_allclose(gpu, cpu, atol=1e-3)
    half = Scorer(load_scoring_model(tiny(kind), device="cuda")).score(SOME)
    np.testing.assert_allclose(half, cpu, atol=0.2)
