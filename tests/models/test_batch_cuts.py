"""Batches of a few sequences are cut at the least cost there is; many are cut full."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from dear.models import batching
from dear.models.batching import START_SHARE, token_batches


def cost(lengths: list[int], batches: list[list[int]], budget: int) -> float:
    return padded(lengths, batches) + len(batches) * budget * START_SHARE


def padded(lengths: list[int], batches: list[list[int]]) -> int:
    return sum(max(lengths[i] for i in b) * len(b) for b in batches)


def best_of_all(lengths: list[int], budget: int) -> float:
    tall = sorted(lengths, reverse=True)
    found = []
    for many in range(len(tall)):
        for cuts in itertools.combinations(range(1, len(tall)), many):
            edges = [0, *cuts, len(tall)]
            parts = [list(range(a, b)) for a, b in itertools.pairwise(edges)]
            if all(len(p) == 1 or tall[p[0]] * len(p) <= budget for p in parts):
                found.append(cost(tall, parts, budget))
    return min(found)


@pytest.mark.parametrize("budget", [1, 60, 200, 1000])
def test_no_other_cuts_cost_less(budget: int) -> None:
    rng = np.random.default_rng(budget)
    for _ in range(20):
        lengths = rng.integers(1, 90, int(rng.integers(1, 9))).tolist()
        batches = token_batches(lengths, budget)
        assert sorted(i for b in batches for i in b) == list(range(len(lengths)))
        assert cost(lengths, batches, budget) == pytest.approx(best_of_all(lengths, budget))


def test_one_query_pads_less_than_full_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = np.random.default_rng(0).normal(98, 30, 100).clip(20, 250).astype(int).tolist()
    cut = token_batches(lengths, 2048)
    monkeypatch.setattr(batching, "EXACT_BATCHES", 0)
    full = token_batches(lengths, 2048)
    assert cost(lengths, cut, 2048) < cost(lengths, full, 2048)
    assert padded(lengths, cut) < 0.96 * padded(lengths, full)


def test_many_sequences_are_cut_full_and_longest_first() -> None:
    lengths = np.random.default_rng(0).integers(1, 300, 3000).tolist()
    batches = token_batches(lengths, 2048)
    widths = [max(lengths[i] for i in b) for b in batches]
    assert widths == sorted(widths, reverse=True)
    for batch, width in zip(batches, widths, strict=True):
        assert width * len(batch) <= 2048
    assert padded(lengths, batches) < 1.02 * sum(lengths)
