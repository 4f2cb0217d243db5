"""A recipe's settings that a planner may change; examples, arithmetic and time."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from dear.data.collections import open_collection
from dear.data.formats import read_run
from dear.data.formats.lines import numbered_lines
from dear.errors import DataError, DearError
from dear.plan.cards import Card
from dear.plan.shapes import Shape
from dear.recipes import (
    DataRecipe,
    GradientRecipe,
    ListDataRecipe,
    ListwiseRecipe,
    LoraRecipe,
    PairRecipe,
    parallel_of,
)

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

    recipe: GradientRecipe
    devices: int = 1
    strategy: Strategy = "ddp"
    cpu_offload: bool = False
    quantise: str = "none"
    activation_offload: bool = False
    on_cpu: bool = False

    @classmethod
    def of(cls, recipe: GradientRecipe, *, devices: int, on_cpu: bool = False) -> Setup:
        return cls(
            recipe=recipe,
            devices=devices,
            strategy=parallel_of(recipe).strategy,
            cpu_offload=parallel_of(recipe).cpu_offload,
            quantise=recipe.model.quantise,
            activation_offload=recipe.train.activation_offload,
            on_cpu=on_cpu,
        )

    @property
    def is_list(self) -> bool:
        return isinstance(self.recipe, ListwiseRecipe)

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
        recipe = self.recipe
        return self.groups * (recipe.groups.size if isinstance(recipe, PairRecipe) else 1)

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence that the recipe allows."""
        recipe = self.recipe
        if isinstance(recipe, ListwiseRecipe):
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


MS_MARCO_QUERIES = 502_939
"""Training queries of MS MARCO passage that have a judgement."""

ROWS: dict[str, int] = {
    "Tevatron/msmarco-passage": 400_782,
    "Tevatron/msmarco-passage-aug": 491_900,
    "dear-cot": 20_000,
}
"""Rows of published training sets (-aug and DeAR-COT: about)."""

TRAINING_SHARE, SCORING_SHARE = 0.45, 0.50
"""Of a card's peak that is assumed to be had: this project's goals, not measurements."""
CPU_SHARE = 0.75
"""Of the measured matrix rate of a CPU; see benchmarks/results/plan.json."""
PAIR_TOKENS = 101
"""Of a query and a passage of MS MARCO together, prompt included: the mean of dl19's candidates
(BM25's best 100 of 43 queries, SmolLM2's tokenizer)."""
WIDER = 0.2
"""The longest of n such pairs has 1 + WIDER * log2(n) times the mean: 161, 183, 199, 216 and 236
tokens for 8 to 128 of them, which this meets within 3 %."""
LIST_SHARE = 0.6
"""Mean tokens of a list, of the most that a recipe allows. Assumed."""
ANSWER_TOKENS, THOUGHT_TOKENS = 100, 600
"""Of a permutation of 20, and of the thought before it. Assumed."""
TEST_QUERIES, DEPTH = 43, 100
"""TREC DL 2019."""
WINDOW, STRIDE, CASCADE_DEPTH = 20, 10, 30
"""How a listwise model ranks: the best 30 in windows of 20, step 10."""


@dataclass(frozen=True, slots=True)
class Examples:
    """How many groups or lists an epoch has, and where the number comes from."""

    count: int
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One line of the plan's time.

    flops: of all devices together.  seconds: on all devices, at the assumed share of the peak.
    items: pairs, lists or steps.
    """

    name: str
    what: str
    items: int
    flops: float
    seconds: float

    @property
    def rate(self) -> float:
        return self.items / self.seconds if self.seconds else 0.0


def count_examples(setup: Setup, given: int | None) -> Examples:
    """From `--queries`, from the recipe's data where they can be read, or as published."""
    if given is not None:
        return Examples(given, "--queries")
    recipe = setup.recipe
    per_query = recipe.groups.per_query if isinstance(recipe, PairRecipe) else 1
    found = [_count(source, per_query) for source in recipe.data]
    if all(found):
        names = sorted({f.source for f in found if f})
        return Examples(sum(f.count for f in found if f), ", ".join(names))
    return Examples(MS_MARCO_QUERIES, "MS MARCO's judged training queries (the data is not here)")


def _count(source: DataRecipe | ListDataRecipe, per_query: int) -> Examples | None:
    file_name = source.lists[0] if isinstance(source, ListDataRecipe) else source.rows
    if file_name or isinstance(source, ListDataRecipe):
        published = next((n for key, n in ROWS.items() if file_name.endswith(key)), None)
        here = _lines(file_name)
        if here is not None:
            return Examples(here, f"{file_name}, counted")
        return Examples(published, f"{file_name}, as published") if published else None
    try:
        opened = open_collection(source.collection)
        judged = opened.judgements(source.split) if source.judged else None
        file = Path(source.run)
        run = read_run(file) if file.is_file() else opened.run(source.run, source.split)
        queries = sum(1 for q in run if judged is None or q in judged)
    except (DearError, OSError):
        return None
    queries = min(queries, source.queries or queries)
    return Examples(queries * per_query, f"{source.collection}, counted")


def _lines(name: str) -> int | None:
    path = Path(name)
    path = path / "examples.jsonl" if path.is_dir() else path
    if not path.is_file():
        return None
    try:
        return sum(1 for _ in numbered_lines(path))
    except DataError:  # no lines; a training says what it is
        return None


def padded_width(pairs: int, mean: float, longest: int) -> float:
    """Tokens of a batch's longest pair, which all others are padded to."""
    return min(longest, mean * (1 + WIDER * math.log2(max(pairs, 1))))


def steps_of(setup: Setup, examples: int) -> int:
    """Optimiser steps of the whole training."""
    train = setup.recipe.train
    if train.max_steps:
        return train.max_steps
    return round(-(-examples // train.groups_per_step) * train.epochs)


def forward_flops(shape: Shape, sequences: float, tokens: float, *, head_tokens: float) -> float:
    """Of one forward pass.

    Two for each weight that multiplies and each token; attention's two products beside them. A
    language head multiplies `head_tokens` tokens of each sequence.
    """
    head = shape.language_head
    body = 2.0 * (shape.working - head) * tokens
    attention = 4.0 * shape.heads * shape.head_size * shape.layers * tokens * tokens
    return sequences * (body + attention + 2.0 * head * head_tokens)


def training_flops(setup: Setup, shape: Shape, forward: float) -> float:
    """Of forward and backward: three times the forward with full weights, twice beside LoRA,
    whose base has no gradient; once more where activations are computed again."""
    backward = 1.0 if setup.recipe.model.lora is not None else 2.0
    again = 1.0 if setup.recipe.train.gradient_checkpointing else 0.0
    return forward * (1.0 + backward + again)


def seconds(flops: float, card: Card, devices: int, share: float) -> float:
    return flops / (card.rate * share * devices)


def generation_seconds(shape: Shape, card: Card, *, tokens: int, bytes_a_weight: float) -> float:
    """One after another, as a small batch is generated: each token reads all weights once."""
    return tokens * shape.working * bytes_a_weight / card.bandwidth
