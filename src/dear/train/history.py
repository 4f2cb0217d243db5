"""What a Trainer's log says: curves, the best step, whether patience is at an end."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any


def loss_curve(history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What was logged of the loss: each entry's is the mean of the steps since the one before.

    Keys in one order, whether or not an entry has been through a checkpoint.
    """
    return [dict(sorted(entry.items())) for entry in history if "loss" in entry]


def mean_loss(history: Sequence[Mapping[str, Any]]) -> float:
    """The mean over all steps, out of the logged means; NaN where nothing was logged."""
    total, last = 0.0, 0
    for entry in loss_curve(history):
        total += entry["loss"] * (entry["step"] - last)
        last = entry["step"]
    return total / last if last else math.nan


def dev_curve(history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What was measured on dev."""
    return [dict(sorted(entry.items())) for entry in history if "eval_ndcg" in entry]


def best_step(history: Sequence[Mapping[str, Any]]) -> int | None:
    """The step with the highest nDCG@10 on dev, the first of equals; None without dev."""
    curve = dev_curve(history)
    return max(curve, key=lambda entry: entry["eval_ndcg"])["step"] if curve else None


def is_out_of_patience(history: Sequence[Mapping[str, Any]], patience: int) -> bool:
    """True if the last `patience` evaluations were no better than one before them."""
    values = [entry["eval_ndcg"] for entry in dev_curve(history)]
    if not patience or not values:
        return False
    return len(values) - 1 - values.index(max(values)) >= patience
