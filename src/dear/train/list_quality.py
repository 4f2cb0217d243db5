"""How good an order is that a listwise model in training gives to held-out lists."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dear.records import ListExample
from dear.train.lists import ListTokenizer, ListTokens, tokenise


def list_quality(found: Sequence[int], best: Sequence[int]) -> tuple[float, float]:
    """(nDCG, Kendall's tau) of an order against the one that it should be.

    The gain of a passage is the number of those that should stand behind it.
    """
    from scipy.stats import kendalltau

    count = len(best)
    gains = {passage: count - 1 - rank for rank, passage in enumerate(best)}
    discounts = 1 / np.log2(np.arange(2, count + 2))
    ideal = float(np.arange(count)[::-1] @ discounts)
    ndcg = float(np.array([gains[p] for p in found]) @ discounts) / ideal
    ranks = {passage: rank for rank, passage in enumerate(found)}
    tau = kendalltau([ranks[p] for p in best], range(count)).statistic
    return ndcg, float(tau)


def judge_of(
    encode: ListTokenizer, held_out: Sequence[ListExample]
) -> Callable[[Any], float] | None:
    """Mean nDCG of single-pass orders on the held-out lists."""
    if not held_out:
        return None
    in_order = ListTokenizer(encode.encoder, encode.contract, "order")
    tokens, _ = tokenise(held_out, in_order, epochs=1, seed=None)

    def judge(model: Any) -> float:
        from dear.train.list_trainer import orders

        best = [_best(t) for t in tokens[0]]
        found = orders(model, tokens[0])
        return float(np.mean([list_quality(f, b)[0] for f, b in zip(found, best, strict=True)]))

    return judge


def _best(tokens: ListTokens) -> list[int]:
    return sorted(range(len(tokens.targets)), key=lambda i: -tokens.targets[i])
