"""One function for each verb: options in, files and a result out; nothing is printed.

The modules load on first use (`steps.rank.rank(…)`), so that their options (`dear.steps.options`)
cost nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dear.steps import compare, evaluate, label, reason, report, retrieve, train

__all__ = ["compare", "evaluate", "label", "reason", "report", "retrieve", "train"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module(f"{__name__}.{name}")
