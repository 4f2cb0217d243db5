"""What a plan is made for: a recipe's own settings, with those that a planner may change."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from dear.recipes import LoraRecipe, Recipe

Strategy = Literal["ddp", "fsdp2", "zero2", "zero3"]
STRATEGIES: tuple[Strategy, ...] = ("ddp", "fsdp2", "zero2", "zero3")
PAIR_EXTRAS = 3
"""Special tokens around a pair."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """One way to run one training.

    devices: in all.  quantise: "none", "nf4" or "int8", of the base beside an adapter.
    on_cpu: computes as a CPU does, in float32 and in small passes.
    """

    recipe: Recipe
    devices: int = 1
    strategy: Strategy = "ddp"
    cpu_offload: bool = False
    quantise: str = "none"
    activation_offload: bool = False
    on_cpu: bool = False

    @classmethod
    def of(cls, recipe: Recipe, *, devices: int, on_cpu: bool = False) -> Setup:
        return cls(
            recipe=recipe,
            devices=devices,
            strategy=recipe.parallel.strategy,
            cpu_offload=recipe.parallel.cpu_offload,
            quantise=recipe.model.quantise,
            activation_offload=recipe.train.activation_offload,
            on_cpu=on_cpu,
        )

    @property
    def is_list(self) -> bool:
        return self.recipe.kind in ("listwise", "heads")

    @property
    def sharded(self) -> bool:
        """True if weights are spread over the devices."""
        return self.devices > 1 and self.strategy in ("fsdp2", "zero3")

    @property
    def groups(self) -> int:
        """Groups or lists that go through one device in one pass."""
        train = self.recipe.train
        return max(1, -(-train.groups_per_step // (train.accumulate * self.devices)))

    @property
    def passes(self) -> int:
        """Forward and backward passes of one device in a step."""
        train = self.recipe.train
        return -(-train.groups_per_step // (self.groups * self.devices))

    @property
    def sequences(self) -> int:
        """Sequences that go through one device in one pass."""
        return self.groups * (1 if self.is_list else self.recipe.groups.size)

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence that the recipe allows."""
        recipe = self.recipe
        if self.is_list:
            return recipe.listwise.max_tokens
        contract = recipe.contract
        extras = PAIR_EXTRAS + contract.append_eos
        return contract.max_query_tokens + contract.max_passage_tokens + extras

    def with_train(self, **changes: Any) -> Setup:
        train = replace(self.recipe.train, **changes)
        return replace(self, recipe=replace(self.recipe, train=train))

    def with_lora(self, lora: LoraRecipe) -> Setup:
        """As its published LoRA recipes have it: an adapter on bfloat16 weights."""
        model = replace(self.recipe.model, lora=lora, dtype="bfloat16")
        return replace(self, recipe=replace(self.recipe, model=model))
