"""`dear plan`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dear.artifacts import write_json
from dear.cli.output import duration, rate, summary, table
from dear.errors import ConfigError
from dear.plan.cards import find_card

if TYPE_CHECKING:
    from dear.plan.memory import Memory
    from dear.plan.planning import Plan
    from dear.plan.remedies import Remedy

GIB = 2**30


def plan(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="A TOML file, or the name of a shipped recipe.")
    ],
    gpu: Annotated[
        str, typer.Option(metavar="CARD", help="rtx-4090, l4, a100-80gb, h100, h200, …; or cpu.")
    ] = "h100",
    gpus: Annotated[int, typer.Option(min=1, metavar="N", help="How many of them, in all.")] = 1,
    queries: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Training queries or lists.", show_default="those of the data"
        ),
    ] = None,
    mean_tokens: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Of a pair or a list.", show_default="assumed"),
    ] = None,
    mfu: Annotated[
        float | None,
        typer.Option(
            min=0.001, max=1.0, help="Share of the peak in training.", show_default="0.45"
        ),
    ] = None,
    scoring_mfu: Annotated[
        float | None,
        typer.Option(min=0.001, max=1.0, help="Share of the peak in scoring.", show_default="0.5"),
    ] = None,
    price_per_hour: Annotated[
        float | None,
        typer.Option(min=0.0, metavar="PRICE", help="Of one card; adds what all of it costs."),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the plan as JSON, too.")
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change the recipe: train.accumulate=8."),
    ] = None,
) -> None:
    """Say what a training needs on given cards: memory, time, cost, and what would make it fit.

    Nothing is loaded or trained, and no weights need to be there.
    """
    from dear.plan.planning import Assumed
    from dear.plan.planning import plan as made
    from dear.recipes import load_recipe

    card = find_card(gpu)
    if json_file is not None and not json_file.absolute().parent.is_dir():
        raise ConfigError(f"{json_file}: there is no folder {json_file.parent}")
    found = made(
        load_recipe(recipe, changes or ()),
        card,
        gpus,
        Assumed(
            queries=queries,
            mean_tokens=mean_tokens,
            training_share=mfu,
            scoring_share=scoring_mfu,
            price_per_hour=price_per_hour,
        ),
    )
    _show(found)
    if json_file is not None:
        write_json(json_file, as_dict(found))
        summary(f"{json_file}: the plan", json_file)


def _show(plan: Plan) -> None:
    shape, setup = plan.shape, plan.setup
    summary(
        f"{plan.name} on {plan.devices} x {plan.card.name} ({plan.card.memory / GIB:.0f} GiB): "
        f"{shape.parameters / 1e6:,.0f}M parameters, {shape.trainable / 1e6:,.1f}M trained, "
        f"{setup.strategy if plan.devices > 1 else 'one device'}"
    )
    summary(f"examples: {plan.examples.count:,} ({plan.examples.source})\n")
    _show_memory(plan)
    print()
    table(
        ("stage", "what", "time", "rate"),
        [(s.name, s.what, duration(s.seconds), rate(s.items, s.seconds)) for s in plan.stages],
        align=("left", "left", "right", "right"),
        wrap=("what",),
    )
    if plan.price is not None:
        summary(f"cost: {plan.price:,.2f} for {plan.seconds / 3600 * plan.devices:,.1f} card hours")
    if plan.remedies:
        print()
        table(
            ("what would make it fit", "GiB", "fits", "options"),
            [_remedy_row(r) for r in plan.remedies],
            align=("left", "right", "left", "left"),
            wrap=("options",),
        )
    summary("\n" + "\n".join(plan.assumptions))


def _show_memory(plan: Plan) -> None:
    rows = [(part.replace("_", " "), gib(size)) for part, size in plan.memory.parts().items()]
    if plan.memory.overlapping:
        rows.append(("never at the same time", f"-{gib(plan.memory.overlapping)}"))
    verdict = "fits" if plan.fits else "does NOT fit"
    rows.append((f"training, in all: {verdict}", gib(plan.memory.total)))
    if plan.memory.host:
        rows.append(("in the host's memory", gib(plan.memory.host)))
    for dtype, memory in plan.scoring.items():
        verdict = "fits" if memory.fits(plan.card) else "does NOT fit"
        rows.append((f"scoring in {dtype}: {verdict}", gib(memory.total)))
    table(("memory of each device", "GiB"), rows, align=("left", "right"))


def _remedy_row(remedy: Remedy) -> tuple[str, str, str, str]:
    what = remedy.what if remedy.same_model else f"{remedy.what} (another model)"
    return what, gib(remedy.memory.total), "yes" if remedy.fits else "no", remedy.options


def gib(size: int) -> str:
    return f"{size / GIB:.2f}"


def as_dict(plan: Plan) -> dict[str, Any]:
    """Bytes, seconds and counts; what `--json` writes."""
    return {
        "recipe": plan.name,
        "card": plan.card.name,
        "card_bytes": plan.card.memory,
        "devices": plan.devices,
        "strategy": plan.setup.strategy,
        "parameters": plan.shape.parameters,
        "trained": plan.shape.trainable,
        "examples": plan.examples.count,
        "examples_from": plan.examples.source,
        "steps": plan.steps,
        "fits": plan.fits,
        "training_bytes": _memory(plan.memory),
        "scoring_bytes": {dtype: _memory(m) for dtype, m in plan.scoring.items()},
        "stages": [
            {
                "name": s.name,
                "what": s.what,
                "items": s.items,
                "flops": s.flops,
                "seconds": s.seconds,
            }
            for s in plan.stages
        ],
        "price": plan.price,
        "remedies": [
            {
                "what": r.what,
                "options": r.options,
                "bytes": r.memory.total,
                "fits": r.fits,
                "same_model": r.same_model,
            }
            for r in plan.remedies
        ],
        "assumptions": list(plan.assumptions),
    }


def _memory(memory: Memory) -> dict[str, int]:
    return {
        **memory.parts(),
        "overlapping": memory.overlapping,
        "total": memory.total,
        "host": memory.host,
    }
