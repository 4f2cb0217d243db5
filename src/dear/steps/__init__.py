"""One function for each verb: options in, files and a result out; nothing is printed.

The modules load on first use (`steps.rank.rank(…)`), so that their options (`dear.steps.options`)
cost nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dear.lazy import submodules

if TYPE_CHECKING:
    from dear.steps import (
        bench,
        calibrate,
        check,
        compare,
        distill,
        evaluate,
        export,
        label,
        labels,
        plan,
        push,
        queries,
        rank,
        reason,
        report,
        rerank,
        retrieve,
        split,
        train,
    )

__all__ = [
    "bench",
    "calibrate",
    "check",
    "compare",
    "distill",
    "evaluate",
    "export",
    "label",
    "labels",
    "plan",
    "push",
    "queries",
    "rank",
    "reason",
    "report",
    "rerank",
    "retrieve",
    "split",
    "train",
]


__getattr__ = submodules(__name__, *__all__)
