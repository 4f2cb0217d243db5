"""Rankings × judgements → numbers, and whether two of those numbers differ.

The names below load on first use, so that importing the package stays cheap. The function
`compare` is reached through its module (`from dear.evaluate.compare import compare`): under
this package the same name means the module.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dear.evaluate.compare import (
        Comparison,
        PairwiseComparison,
        compare_all,
        compare_pairs,
        pool,
    )
    from dear.evaluate.metrics import MEASURES, Evaluation, Measure, evaluate, parse_measures
    from dear.evaluate.paired import (
        bootstrap_interval,
        holm,
        paired_effect,
        paired_randomisation,
        paired_t,
    )
    from dear.evaluate.study import Entry, Refusal, RunSource, Study

__all__ = [
    "MEASURES",
    "Comparison",
    "Entry",
    "Evaluation",
    "Measure",
    "PairwiseComparison",
    "Refusal",
    "RunSource",
    "Study",
    "bootstrap_interval",
    "compare_all",
    "compare_pairs",
    "evaluate",
    "holm",
    "paired_effect",
    "paired_randomisation",
    "paired_t",
    "parse_measures",
    "pool",
]

_HOMES = {
    "metrics": ("MEASURES", "Evaluation", "Measure", "evaluate", "parse_measures"),
    "compare": (
        "Comparison",
        "PairwiseComparison",
        "compare_all",
        "compare_pairs",
        "pool",
    ),
    "paired": (
        "bootstrap_interval",
        "holm",
        "paired_effect",
        "paired_randomisation",
        "paired_t",
    ),
    "study": ("Entry", "Refusal", "RunSource", "Study"),
}


def __getattr__(name: str) -> object:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
