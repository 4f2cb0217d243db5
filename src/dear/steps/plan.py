"""What a training needs: memory, time, cost, and what would make it fit."""

from __future__ import annotations

from dear.plan.cards import find_card
from dear.plan.planning import Assumed, Plan
from dear.plan.planning import plan as compute
from dear.recipes import load_recipe
from dear.steps.options import PlanOptions


def plan(options: PlanOptions) -> Plan:
    """Plan a recipe's training. ConfigError: no such card or recipe."""
    card = find_card(options.gpu)
    return compute(
        load_recipe(options.recipe, options.changes),
        card,
        options.gpus,
        Assumed(
            queries=options.queries,
            mean_tokens=options.mean_tokens,
            training_share=options.mfu,
            scoring_share=options.scoring_mfu,
            price_per_hour=options.price_per_hour,
        ),
    )
