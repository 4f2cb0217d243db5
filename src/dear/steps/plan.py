"""What a training needs: memory, time, cost, and what would make it fit."""

from __future__ import annotations

from dear.notices import say
from dear.plan.cards import CPU, DEFAULT, find_card, here
from dear.plan.memory import weigh
from dear.plan.planning import Assumed, Plan
from dear.plan.planning import plan as compute
from dear.plan.work import Setup
from dear.recipes import HeadsRecipe, Recipe, load_recipe
from dear.steps.options import PlanOptions


def plan(options: PlanOptions) -> Plan:
    """Plan a recipe's training. ConfigError: no such card or recipe."""
    recipe = load_recipe(options.recipe, options.changes)
    return compute(
        recipe,
        find_card(options.gpu or _card_of(recipe, options.gpus)),
        options.gpus,
        Assumed(
            queries=options.queries,
            mean_tokens=options.mean_tokens,
            training_share=options.mfu,
            scoring_share=options.scoring_mfu,
            price_per_hour=options.price_per_hour,
        ),
    )


def _card_of(recipe: Recipe, gpus: int) -> str:
    """The card to plan for where none is named, told."""
    if gpus > 1 or isinstance(recipe, HeadsRecipe):
        return DEFAULT
    setup = Setup.of(recipe, devices=1, on_cpu=True)
    name = here(weigh(setup).shape.parameters)
    if name == CPU:
        say("no card is named and there is no GPU here: planned for this machine's processor")
    return name
