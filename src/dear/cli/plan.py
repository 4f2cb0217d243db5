"""`dear plan`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dear.cli.loading import steps
from dear.cli.options import expanded
from dear.cli.output import JsonFile, JsonOutput, duration, rate, summary, table
from dear.plan.cards import GIB
from dear.steps.options import PlanOptions

if TYPE_CHECKING:
    from dear.plan.planning import Plan, Remedy


@expanded
def plan(options: PlanOptions, json_file: JsonFile = None) -> None:
    """Say what a training needs on given cards: memory, time, cost, and what would make it fit.

    Nothing is loaded or trained, and no weights need to be there.
    """
    json = JsonOutput(json_file)
    found = steps.plan.plan(options)
    json.give(found.to_dict())
    if json.instead:
        return
    _show(found)
    if json_file is not None:
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
    rows = [(part.replace("_", " "), _gib(size)) for part, size in plan.memory.parts().items()]
    if plan.memory.overlapping:
        rows.append(("never at the same time", f"-{_gib(plan.memory.overlapping)}"))
    verdict = "fits" if plan.fits else "does NOT fit"
    rows.append((f"training, in all: {verdict}", _gib(plan.memory.total)))
    if plan.memory.host:
        rows.append(("in the host's memory", _gib(plan.memory.host)))
    for dtype, memory in plan.scoring.items():
        verdict = "fits" if memory.fits(plan.card) else "does NOT fit"
        rows.append((f"scoring in {dtype}: {verdict}", _gib(memory.total)))
    table(("memory of each device", "GiB"), rows, align=("left", "right"))


def _remedy_row(remedy: Remedy) -> tuple[str, str, str, str]:
    what = remedy.what if remedy.same_model else f"{remedy.what} (another model)"
    return what, _gib(remedy.memory.total), "yes" if remedy.fits else "no", remedy.options


def _gib(size: int) -> str:
    return f"{size / GIB:.2f}"
