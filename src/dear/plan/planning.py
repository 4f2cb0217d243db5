"""What a training needs on given cards, and what would make it fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from dear.errors import ConfigError
from dear.plan.cards import Card
from dear.plan.memory import Memory, scoring_memory, training_memory, weigh
from dear.plan.shapes import Shape
from dear.plan.work import (
    ANSWER_TOKENS,
    CASCADE_DEPTH,
    CPU_SHARE,
    DEPTH,
    LIST_SHARE,
    PAIR_TOKENS,
    SCORING_SHARE,
    STRIDE,
    TEST_QUERIES,
    THOUGHT_TOKENS,
    TRAINING_SHARE,
    WINDOW,
    Examples,
    Setup,
    Stage,
    count_examples,
    forward_flops,
    generation_seconds,
    padded_width,
    seconds,
    steps_of,
    training_flops,
)
from dear.recipes import (
    ListwiseRecipe,
    LoraRecipe,
    ModelRecipe,
    PairRecipe,
    PointwiseRecipe,
    Recipe,
)

MOST_DEVICES = 64
LORA = LoraRecipe(rank=32, alpha=64.0)

Measure = Callable[[Setup], Memory]


@dataclass(frozen=True, slots=True, kw_only=True)
class Remedy:
    """A change, the options that make it, and the memory that is needed with it.

    same_model: false where another model is learnt (an adapter instead of full weights).
    """

    what: str
    options: str
    memory: Memory
    fits: bool
    same_model: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    what: str
    options: str
    apply: Callable[[Setup], Setup]
    same_model: bool = True


def remedies(setup: Setup, card: Card, measure: Measure) -> tuple[Remedy, ...]:
    """Every change that can be made, alone; then, if none is enough, the shortest sequence of
    them that is, those first that change nothing about what is learnt."""
    tried = [_tried(change, setup, card, measure) for change in changes(setup)]
    found = [remedy for remedy in tried if remedy is not None]
    if not any(r.fits and r.same_model for r in found):
        found += _together(setup, card, measure)
    return tuple(found)


def changes(setup: Setup) -> Iterator[Change]:
    """In the order in which they cost least."""
    train, model = setup.recipe.train, setup.recipe.model
    if not train.gradient_checkpointing:
        yield Change(
            what="compute activations again",
            options="--set train.gradient_checkpointing=true",
            apply=lambda s: s.with_train(gradient_checkpointing=True),
        )
    if setup.groups > 1:
        most = max(1, train.groups_per_step // setup.devices)
        yield Change(
            what="one group in a pass",
            options=f"--set train.accumulate={most}",
            apply=lambda s: s.with_train(
                accumulate=max(1, s.recipe.train.groups_per_step // s.devices)
            ),
        )
    if setup.on_cpu:
        return
    if setup.devices > 1 and not setup.sharded:
        yield Change(
            what="spread weights, gradients and optimiser",
            options='--set parallel.strategy="fsdp2"',
            apply=lambda s: replace(s, strategy="fsdp2"),
        )
    if setup.devices > 1 and setup.strategy != "ddp" and not setup.cpu_offload:
        yield Change(
            what="keep them in the host's memory",
            options="--set parallel.cpu_offload=true",
            apply=lambda s: replace(s, cpu_offload=True),
        )
    if train.gradient_checkpointing and not setup.activation_offload:
        yield Change(
            what="keep activations in the host's memory",
            options="--set train.activation_offload=true",
            apply=lambda s: replace(s, activation_offload=True),
        )
    if model.lora is None:
        yield Change(
            what="LoRA on bfloat16 weights",
            options='--set model.dtype="bfloat16" --set model.lora.rank=32 '
            "--set model.lora.alpha=64",
            apply=lambda s: s.with_lora(LORA),
            same_model=False,
        )
    if setup.quantise == "none":
        lora = model.lora or LORA
        yield Change(
            what="QLoRA: LoRA on 4-bit weights",
            options='--set model.quantise="nf4"'
            + ("" if model.lora else " --set model.lora.rank=32 --set model.lora.alpha=64"),
            apply=lambda s: replace(
                s.with_lora(lora),
                quantise="nf4",
                strategy="ddp",
                cpu_offload=False,
            ),
            same_model=model.lora is not None,
        )


def _more_devices(setup: Setup, card: Card, measure: Measure) -> Remedy | None:
    """The fewest devices, doubled from those there are, on which it fits when it is spread."""
    wider = replace(setup, strategy=setup.strategy if setup.sharded else "fsdp2")
    devices = setup.devices * 2
    while devices <= MOST_DEVICES:
        wider = replace(wider, devices=devices)
        memory = measure(wider)
        if memory.fits(card):
            return Remedy(
                what=f"{devices} devices, weights spread",
                options=f'--gpus {devices} --set parallel.strategy="{wider.strategy}"',
                memory=memory,
                fits=True,
            )
        devices *= 2
    return None


def _tried(change: Change, setup: Setup, card: Card, measure: Measure) -> Remedy | None:
    try:
        memory = measure(change.apply(setup))
    except ConfigError:  # an adapter on modules that this model has not
        return None
    return Remedy(
        what=change.what,
        options=change.options,
        memory=memory,
        fits=memory.fits(card),
        same_model=change.same_model,
    )


def _together(setup: Setup, card: Card, measure: Measure) -> list[Remedy]:
    """The changes one on top of the other, until it fits; and more devices where it does not."""
    found: list[Remedy] = []
    made: list[Change] = []
    now, done = setup, False
    while not done:
        rest = [c for c in changes(now) if c.what not in {m.what for m in made} and c.same_model]
        if not rest:
            break
        change = rest[0]
        now, made = change.apply(now), [*made, change]
        memory = measure(now)
        done = memory.fits(card)
        if done and len(made) > 1:
            found.append(
                Remedy(
                    what=" + ".join(c.what for c in made),
                    options=" ".join(c.options for c in made),
                    memory=memory,
                    fits=True,
                )
            )
    if not done and not setup.on_cpu:
        wider = _more_devices(setup, card, measure) or _more_devices(now, card, measure)
        found += [wider] if wider else []
    return found


TEACHER = "meta-llama/Llama-2-13b-hf"
"""Whose labels a student of the family learns from."""
LABEL_DEPTH = 30
"""Passages of each training query that a teacher labels."""
SCORED_AS = ("bfloat16", "int8", "int4")
GPU_BATCH_TOKENS, CPU_BATCH_TOKENS = 32768, 2048
"""Of one scoring pass; dear.scoring.batching has the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a training needs on `devices` of `card`.

    memory: of each device in training.  scoring: dtype → memory of one device that scores with
        the trained model.  steps: of the optimiser.
    price: of all devices for all stages, where an hour's was given.
    """

    name: str
    card: Card
    devices: int
    setup: Setup
    shape: Shape
    examples: Examples
    steps: int
    memory: Memory
    scoring: dict[str, Memory]
    stages: tuple[Stage, ...]
    remedies: tuple[Remedy, ...]
    assumptions: tuple[str, ...]
    price: float | None = None

    @property
    def fits(self) -> bool:
        return self.memory.fits(self.card)

    @property
    def seconds(self) -> float:
        return sum(stage.seconds for stage in self.stages)

    def to_dict(self) -> dict[str, Any]:
        """Bytes, seconds and counts, for a JSON file."""
        return {
            "recipe": self.name,
            "card": self.card.name,
            "card_bytes": self.card.memory,
            "devices": self.devices,
            "strategy": self.setup.strategy,
            "parameters": self.shape.parameters,
            "trained": self.shape.trainable,
            "examples": self.examples.count,
            "examples_from": self.examples.source,
            "steps": self.steps,
            "fits": self.fits,
            "training_bytes": self.memory.to_dict(),
            "scoring_bytes": {dtype: m.to_dict() for dtype, m in self.scoring.items()},
            "stages": [
                {
                    "name": s.name,
                    "what": s.what,
                    "items": s.items,
                    "flops": s.flops,
                    "seconds": s.seconds,
                }
                for s in self.stages
            ],
            "price": self.price,
            "remedies": [
                {
                    "what": r.what,
                    "options": r.options,
                    "bytes": r.memory.total,
                    "fits": r.fits,
                    "same_model": r.same_model,
                }
                for r in self.remedies
            ],
            "assumptions": list(self.assumptions),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumed:
    """What a user may know better.

    queries: training examples in an epoch.  mean_tokens: of a pair or a list.
    training_share, scoring_share: of the card's peak.  price_per_hour: of one device.
    """

    queries: int | None = None
    mean_tokens: int | None = None
    training_share: float | None = None
    scoring_share: float | None = None
    price_per_hour: float | None = None


def plan(recipe: Recipe, card: Card, devices: int = 1, assumed: Assumed | None = None) -> Plan:
    """Nothing is loaded, and no memory is used. ConfigError for what has no plan."""
    assumed = assumed or Assumed()
    if recipe.kind == "heads":
        raise ConfigError("kind: weights of attention heads are fitted, not trained: no plan")
    if card.is_cpu and devices > 1:
        raise ConfigError("gpus: a plan for the CPU is for one process")
    setup = Setup.of(recipe, devices=devices, on_cpu=card.is_cpu)
    answer = _answer(setup)

    def measure(changed: Setup) -> Memory:
        return training_memory(changed, answer=answer)

    shape = weigh(setup).shape
    examples = count_examples(setup, assumed.queries)
    memory = measure(setup)
    stages = tuple(_stages(setup, shape, card, examples, assumed))
    price = None
    if assumed.price_per_hour is not None:
        price = sum(s.seconds for s in stages) / 3600 * devices * assumed.price_per_hour
    return Plan(
        name=recipe.name,
        card=card,
        devices=devices,
        setup=setup,
        shape=shape,
        examples=examples,
        steps=steps_of(setup, examples.count),
        memory=memory,
        scoring=_scoring(setup, answer),
        stages=stages,
        remedies=() if memory.fits(card) else remedies(setup, card, measure),
        assumptions=tuple(_told(setup, card, assumed)),
        price=price,
    )


def _scoring(setup: Setup, answer: int) -> dict[str, Memory]:
    dtypes = ("float32",) if setup.on_cpu else SCORED_AS
    if setup.is_list:
        return {
            dtype: scoring_memory(
                setup, dtype=dtype, batch_tokens=0, tokens=setup.longest, lists=1, answer=answer
            )
            for dtype in dtypes
        }
    batch = CPU_BATCH_TOKENS if setup.on_cpu else GPU_BATCH_TOKENS
    return {
        dtype: scoring_memory(setup, dtype=dtype, batch_tokens=batch, tokens=setup.longest)
        for dtype in dtypes
    }


def _stages(
    setup: Setup, shape: Shape, card: Card, examples: Examples, assumed: Assumed
) -> list[Stage]:
    _, scoring = _shares(card, assumed)
    recipe, devices = setup.recipe, setup.devices
    mean = mean_tokens(setup, assumed)
    found: list[Stage] = []
    labelled = isinstance(recipe, PairRecipe) and any(source.labels for source in recipe.data)
    if labelled and not setup.on_cpu:  # no CPU waits for this teacher
        teacher = _teacher_shape()
        pairs = examples.count * LABEL_DEPTH
        flops = forward_flops(teacher, pairs, mean, head_tokens=0)
        what = f"{LABEL_DEPTH} passages a query, by LLaMA-2-13B"
        found.append(_stage("label", what, pairs, flops, card, devices, scoring))
    found.append(training_stage(setup, shape, card, examples, assumed))
    found.append(_rank(setup, shape, card, mean, scoring))
    return found


def training_stage(
    setup: Setup, shape: Shape, card: Card, examples: Examples, assumed: Assumed
) -> Stage:
    """All steps of the training; its items are sequences."""
    recipe = setup.recipe
    epoch = examples.count * recipe.train.epochs
    lists = epoch
    if recipe.train.max_steps:
        lists = recipe.train.max_steps * recipe.train.groups_per_step
    sequences = lists * (recipe.groups.size if isinstance(recipe, PairRecipe) else 1)
    width = _width(setup, mean_tokens(setup, assumed))
    forward = forward_flops(shape, sequences, width, head_tokens=_answer(setup))
    flops = training_flops(setup, shape, forward)
    steps = steps_of(setup, examples.count)
    what = f"{steps:,} steps, {recipe.train.epochs:g} epochs of {examples.count:,}"
    share, _ = _shares(card, assumed)
    return _stage("train", what, round(sequences), flops, card, setup.devices, share)


def _width(setup: Setup, mean: int) -> float:
    """Tokens that a sequence costs in training: its own for a list, and where a CPU sorts pairs by
    length; else those of the longest pair of the pass."""
    if setup.is_list or setup.on_cpu:
        return mean
    return padded_width(setup.sequences, mean, setup.longest)


def _rank(setup: Setup, shape: Shape, card: Card, mean: int, share: float) -> Stage:
    devices = setup.devices
    if not isinstance(setup.recipe, ListwiseRecipe):
        pairs = TEST_QUERIES * DEPTH
        flops = forward_flops(shape, pairs, mean, head_tokens=0)
        what = f"{TEST_QUERIES} queries, {DEPTH} passages each"
        return _stage("rank", what, pairs, flops, card, devices, share)
    windows = TEST_QUERIES * (1 + -(-(CASCADE_DEPTH - WINDOW) // STRIDE))
    answer = _answer(setup)
    flops = forward_flops(shape, windows, mean, head_tokens=0)
    generated = 0.0
    if setup.recipe.listwise.loss.text > 0:
        generated = (
            windows
            / devices
            * generation_seconds(
                shape, card, tokens=answer, bytes_a_weight=4 if setup.on_cpu else 2
            )
        )
    what = f"{TEST_QUERIES} queries, {CASCADE_DEPTH} passages each, one window after the other"
    stage = _stage("rank", what, windows, flops, card, devices, share)
    return replace(stage, seconds=stage.seconds + generated)


def _stage(
    name: str, what: str, items: int, flops: float, card: Card, devices: int, share: float
) -> Stage:
    return Stage(
        name=name,
        what=what,
        items=items,
        flops=flops,
        seconds=seconds(flops, card, devices, share),
    )


def _teacher_shape() -> Shape:
    model = ModelRecipe(base=TEACHER, dtype="bfloat16")
    return weigh(Setup(recipe=PointwiseRecipe(name="teacher", model=model, data=()))).shape


def mean_tokens(setup: Setup, assumed: Assumed) -> int:
    """Of a pair or a list, no more than the recipe allows."""
    if assumed.mean_tokens is not None:
        return min(assumed.mean_tokens, setup.longest)
    if setup.is_list:
        return round(setup.longest * LIST_SHARE)
    return min(PAIR_TOKENS, setup.longest)


def _answer(setup: Setup) -> int:
    """Tokens that a listwise model writes."""
    if not isinstance(setup.recipe, ListwiseRecipe):
        return 0
    lists = setup.recipe.listwise
    answer = ANSWER_TOKENS * min(lists.max_window, WINDOW) // WINDOW
    return min(answer + (THOUGHT_TOKENS if lists.thought else 0), setup.longest // 2)


def _shares(card: Card, assumed: Assumed) -> tuple[float, float]:
    usual = (CPU_SHARE, CPU_SHARE) if card.is_cpu else (TRAINING_SHARE, SCORING_SHARE)
    return assumed.training_share or usual[0], assumed.scoring_share or usual[1]


def _told(setup: Setup, card: Card, assumed: Assumed) -> list[str]:
    training, scoring = _shares(card, assumed)
    peak = "the measured matrix rate" if card.is_cpu else "the data sheet's bfloat16 peak"
    mean = mean_tokens(setup, assumed)
    thing = "list" if setup.is_list else "pair"
    lines = [
        f"speed: {training:.0%} of {peak} in training, {scoring:.0%} in scoring; assumed, "
        "not measured (--mfu, --scoring-mfu)",
        f"tokens: {mean} a {thing} on average, {setup.longest} at most (--mean-tokens)",
    ]
    if not setup.is_list and not card.is_cpu:
        lines.append(
            f"padding: {setup.sequences} pairs of a pass are as long as their longest, "
            f"{_width(setup, mean):.0f} tokens; memory is for {setup.longest}"
        )
    if setup.is_list:
        lines.append(f"answers: {_answer(setup)} tokens")
    return lines
