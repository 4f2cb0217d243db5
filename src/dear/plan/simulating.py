"""A training step without memory: PyTorch runs it on fake tensors, and every tensor is counted.

So the plan follows the model that transformers and peft build, its autocast, its checkpointing and
its loss, not a formula for one architecture.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from dear.checkpoints.hardware import cpu_has_bfloat16
from dear.checkpoints.heads import pooled_logits
from dear.plan.shapes import Shape, meta_model
from dear.plan.work import Setup
from dear.recipes import RECIPES, ListwiseRecipe, ModelRecipe, Recipe

FUSED = "dear_fused"
"""Attention as a fused kernel has it: queries, keys, values, output and one number a row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _SimulatedStep:
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
) -> _SimulatedStep:
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
    return _SimulatedStep(saved=saved, peak=live.peak)


def _simulate_scoring(model: Any, forward: Callable[[Any], torch.Tensor]) -> int:
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
    ALL_ATTENTION_FUNCTIONS.register(FUSED, _attend)
    ALL_MASK_ATTENTION_FUNCTIONS.register(FUSED, lambda *_args, **_kwargs: None)
    yield FUSED


CPU_TOKENS = {"pairs": 4096, "lists": 512}
"""Padded tokens of one pass on a CPU; dear.train has the same."""
THIN, THICK = 1, 2
"""Layers of the models that are simulated; deeper ones follow along a straight line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """Bytes of one forward and backward pass on one device, beyond weights and gradients.

    activations: kept for the backward.  logits: over the vocabulary.  working: at the highest
        moment, beyond both.
    """

    activations: int
    logits: int
    working: int

    @property
    def peak(self) -> int:
        return self.activations + self.logits + self.working


def training_pass(setup: Setup, shape: Shape, *, tokens: int, answer: int) -> Pass:
    """tokens: of each sequence, padding included.  answer: of these, a list's answer."""
    sequences, rest = setup.sequences, 0.0
    if setup.on_cpu:
        # a pass of the recipe goes through in parts
        budget = CPU_TOKENS["lists" if setup.is_list else "pairs"]
        if setup.devices == 1 and setup.recipe.kind != "biencoder":  # whole groups
            group = sequences // setup.groups
            sequences = group * min(setup.groups, max(1, budget // (group * tokens)))
        # the graphs of a backward wait for it together
        part = min(sequences, max(1, budget // tokens))
        rest = sequences / part - 1
        sequences = part
    kept = _kept(setup, answer)
    saved, peak = _simulated(
        setup.recipe.kind,
        replace(setup.recipe.model, dtype=_multiplies(setup)),
        # as dear.train loads them: eager attention is the faster one for pairs on a CPU
        eager=setup.on_cpu and not setup.is_list,
        autocast=_autocasts(setup),
        checkpointing=setup.recipe.train.gradient_checkpointing,
        sequences=sequences,
        tokens=tokens,
        kept=kept,
        layers=shape.layers,
    )
    logits = sequences * kept * shape.vocabulary * 4
    if setup.quantise != "none" and setup.recipe.train.gradient_checkpointing:
        # norms and embedding of a quantised base are float32, and so is what layers hand on
        saved, peak = 2 * saved, peak + saved
    if setup.activation_offload:
        # what layers hand on waits in the host's memory
        saved, peak = 0, peak - saved
    return Pass(
        activations=round(max(0, saved - logits) * (1 + rest)),
        logits=round(logits * (1 + rest)),
        working=max(0, peak - max(saved, logits)),
    )


def scoring_pass(setup: Setup, shape: Shape, *, sequences: int, tokens: int) -> int:
    """Bytes at the highest moment of scoring, beyond the weights: one layer's, however many."""
    model = replace(setup.recipe.model, lora=None)
    thin = min(THICK, shape.layers)
    return _scored(setup.recipe.kind, model, sequences, tokens, thin)


@cache
def _scored(kind: str, model: ModelRecipe, sequences: int, tokens: int, thin: int) -> int:
    with fused_attention() as fused:
        built = meta_model(bare_recipe(kind, model), attention=fused, thin=thin)
        return _simulate_scoring(built, _forward(kind, sequences, tokens, 1))


@cache
def _simulated(
    kind: str,
    model: ModelRecipe,
    *,
    eager: bool,
    autocast: bool,
    checkpointing: bool,
    sequences: int,
    tokens: int,
    kept: int,
    layers: int,
) -> tuple[int, int]:
    """Bytes (kept for the backward, at the highest moment) of a model with so many layers."""
    forward = _forward(kind, sequences, tokens, kept)

    def of(thin: int) -> tuple[int, int]:
        with fused_attention() as fused:
            built = meta_model(
                bare_recipe(kind, model), attention="eager" if eager else fused, thin=thin
            )
            step = simulate(built, forward, autocast=autocast, checkpointing=checkpointing)
        return step.saved, step.peak

    if layers <= THICK:
        return of(layers)
    more = (layers - THICK) / (THICK - THIN)
    saved, peak = (round(b + (b - a) * more) for a, b in zip(of(THIN), of(THICK), strict=True))
    return saved, peak


def bare_recipe(kind: str, model: ModelRecipe) -> Recipe:
    """What of a recipe the model depends on."""
    return RECIPES[kind](name="", model=model, data=())


def _multiplies(setup: Setup) -> Literal["float32", "bfloat16"]:
    return "bfloat16" if _computes_bfloat16(setup) else setup.recipe.model.dtype


def _kept(setup: Setup, answer: int) -> int:
    """Tokens of each list whose logits are made."""
    recipe = setup.recipe
    if not isinstance(recipe, ListwiseRecipe):
        return 0
    return answer if recipe.listwise.loss.text > 0 else 1


def _computes_bfloat16(setup: Setup) -> bool:
    """Sharded weights are gathered in bfloat16, and DeepSpeed's are so in any case."""
    mixed = not setup.on_cpu and setup.recipe.train.autocast
    return mixed and setup.devices > 1 and setup.strategy != "ddp"


def _autocasts(setup: Setup) -> bool:

    recipe = setup.recipe
    able = recipe.train.autocast and (not setup.on_cpu or cpu_has_bfloat16())
    return able and recipe.model.dtype == "float32" and not _computes_bfloat16(setup)


def _forward(kind: str, sequences: int, tokens: int, kept: int) -> Callable[[Any], torch.Tensor]:
    """What makes the loss: all that reaches the memory, in the shapes that training has."""

    def forward(model: Any) -> torch.Tensor:
        ids = torch.zeros(sequences, tokens, dtype=torch.int64)
        mask = torch.ones_like(ids)
        if kind == "biencoder":
            hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
            loss: torch.Tensor = hidden.mean(1).float().pow(2).sum()
            return loss
        if kind == "pointwise":
            return pooled_logits(model, ids, mask).pow(2).sum()
        logits = model(
            input_ids=ids, attention_mask=mask, logits_to_keep=kept, use_cache=False
        ).logits
        targets = torch.zeros(sequences * kept, dtype=torch.int64)
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), targets)

    return forward
