"""A training step without memory: PyTorch runs it on fake tensors, and every tensor is counted.

So the plan follows the model that transformers and peft build, its autocast, its checkpointing and
its loss, not a formula for one architecture.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

FUSED = "dear_fused"
"""Attention as a fused kernel has it: queries, keys, values, output and one number a row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedStep:
    """Bytes of one forward and backward pass beyond weights and their gradients.

    saved: what the forward leaves for the backward.  peak: at the highest moment, whatever is
        computed and thrown away included, with gradients where the caller keeps them.
    """

    saved: int
    peak: int


def simulate(
    model: Any,
    forward: Callable[[Any], torch.Tensor],
    *,
    autocast: bool = False,
    checkpointing: bool = False,
    keep_gradients: bool = False,
) -> SimulatedStep:
    """One step of `model`, which lies on the meta device and is of no use afterwards.

    forward: from the model to a loss; tensors that it makes are fake.
    keep_gradients: count gradients as they come; else each is gone once it is whole, as where
        they are sharded, or are counted as there all the time.
    """
    where = _place(model, fake=autocast or checkpointing)
    model.train()
    if checkpointing:
        # dropout's random state is real and means nothing here
        options = {"use_reentrant": False, "preserve_rng_state": False}
        if hasattr(model, "activation_checkpointing_enable"):  # its name since transformers 5.20
            model.activation_checkpointing_enable(options)
        else:
            model.gradient_checkpointing_enable(options)
        model.enable_input_require_grads()
    if not keep_gradients:
        for weight in model.parameters():
            if weight.requires_grad:
                weight.register_post_accumulate_grad_hook(_drop)
    live = _Live({p.untyped_storage() for p in model.parameters()})
    with where, live:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = forward(model)
        saved = live.now
        loss.backward()  # type: ignore[no-untyped-call]
    return SimulatedStep(saved=saved, peak=live.peak)


def simulate_scoring(model: Any, forward: Callable[[Any], torch.Tensor]) -> int:
    """Bytes at the highest moment of one forward pass without gradients, beyond the weights."""
    where = _place(model, fake=False)
    model.eval()
    live = _Live({p.untyped_storage() for p in model.parameters()})
    with where, torch.no_grad(), live:
        forward(model)
    return live.peak


class _Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes of all storages that are alive, but for those that were there before."""

    def __init__(self, before: set[Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self.known = weakref.WeakSet(before)

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self._count(leaf.untyped_storage())
        return out

    def _count(self, storage: Any) -> None:
        if storage in self.known:
            return
        self.known.add(storage)
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, size)

    def _free(self, size: int) -> None:
        self.now -= size


def _place(model: Any, *, fake: bool) -> Any:
    """Where the model's tensors are. The meta device is faster by far, but autocast and
    checkpointing do not know it, and transformers looks into the masks of its own attention."""
    if not fake and model.config._attn_implementation == FUSED:
        return torch.device("meta")
    mode = FakeTensorMode()
    _to_fake(model, mode)
    return mode


def _drop(weight: torch.Tensor) -> None:
    weight.grad = None


def _to_fake(model: Any, mode: FakeTensorMode) -> None:
    """Weights and buffers of a meta model as fake ones on a CPU, where autocast sees them."""
    made: dict[int, nn.Parameter] = {}
    with mode:
        for module in model.modules():
            for name, weight in module._parameters.items():
                if weight is None:
                    continue
                if id(weight) not in made:
                    made[id(weight)] = nn.Parameter(
                        torch.empty(weight.shape, dtype=weight.dtype),
                        requires_grad=weight.requires_grad,
                    )
                module._parameters[name] = made[id(weight)]
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        out, rows = torch.empty_like(q), q.new_empty(q.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(q, k, v, out, rows)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        q, k, v, _out, _rows = ctx.saved_tensors
        return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


def _attend(
    module: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, _mask: Any, **_: Any
) -> tuple[torch.Tensor, None]:
    # transformers repeats keys and values where a mask is given, and padding always brings one
    repeats = q.shape[1] // k.shape[1]
    if repeats > 1:
        k, v = k.repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1)
    out: torch.Tensor = _Fused.apply(q, k, v)  # type: ignore[no-untyped-call]
    return out.transpose(1, 2), None


@contextlib.contextmanager
def fused_attention() -> Iterator[str]:
    """The name of FUSED in transformers' table, while it is there."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(FUSED, _attend)
    ALL_MASK_ATTENTION_FUNCTIONS.register(FUSED, lambda *_args, **_kwargs: None)
    yield FUSED
