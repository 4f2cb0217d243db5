"""How long a training takes on this machine's processor."""

from __future__ import annotations

from dear.plan.cards import CPU, Card, find_card
from dear.plan.memory import weigh
from dear.plan.planning import Assumed, training_stage
from dear.plan.work import Examples, Setup
from dear.recipes import GradientRecipe


def training_minutes(
    recipe: GradientRecipe,
    groups: int,
    *,
    mean_tokens: int | None = None,
    cpu: Card | None = None,
) -> float:
    """Minutes of all steps: their arithmetic, at the share of the processor's matrix rate that
    trainings were seen to reach. A busy machine takes longer. Loads no weights.

    groups: of an epoch.  mean_tokens: of a pair; the assumed ones where None.
    cpu: `find_card("cpu")` where it was made before: it measures the rate, in about a second.
    """
    setup = Setup.of(recipe, devices=1, on_cpu=True)
    stage = training_stage(
        setup,
        weigh(setup).shape,
        cpu or find_card(CPU),
        Examples(groups, "given"),
        Assumed(mean_tokens=mean_tokens),
    )
    return stage.seconds / 60
