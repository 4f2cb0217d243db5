"""What would make a training fit: each change tried alone, then as many together as it takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from dear.errors import ConfigError
from dear.plan.cards import Card
from dear.plan.memory import Memory
from dear.plan.work import Setup
from dear.recipes import LoraRecipe

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
