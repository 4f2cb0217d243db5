"""One training or scoring pass of a setup, simulated: activations, logits and working space."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

import torch

from dear.models.hardware import cpu_has_bfloat16
from dear.models.heads import pooled_logits
from dear.models.shapes import Shape, meta_model
from dear.plan.setup import Setup
from dear.plan.simulating import fused_attention, simulate, simulate_scoring
from dear.recipes import ModelRecipe, Recipe

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
        return simulate_scoring(built, _forward(kind, sequences, tokens, 1))


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
    return Recipe(name="", kind=kind, model=model, data=())  # type: ignore[arg-type]


def _multiplies(setup: Setup) -> Literal["float32", "bfloat16"]:
    return "bfloat16" if _computes_bfloat16(setup) else setup.recipe.model.dtype


def _kept(setup: Setup, answer: int) -> int:
    """Tokens of each list whose logits are made."""
    if not setup.is_list:
        return 0
    return answer if setup.recipe.listwise.loss.text > 0 else 1


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
