"""Batches of a few sequences are cut at the least cost there is; many are cut full."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dear.scoring import batching
from dear.scoring.batching import ANY_SHAPE, START_SHARE, Grid, grid_for, token_batches
from dear.scoring.loading import load_scoring_model
from dear.scoring.scorer import Scorer


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


@given(
    lengths=st.lists(st.integers(1, 120), min_size=1, max_size=60),
    budget=st.integers(1, 900),
    rows=st.integers(1, 5),
    exact=st.booleans(),
)
def test_batches_on_a_grid_have_whole_rows_but_for_the_last(
    lengths: list[int], budget: int, rows: int, exact: bool
) -> None:
    grid = Grid(width=8, rows=rows, longest=100)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batching, "EXACT_BATCHES", 1000 if exact else 0)
        batches = token_batches(lengths, budget, grid)
    assert sorted(i for b in batches for i in b) == list(range(len(lengths)))
    for number, batch in enumerate(batches):
        width = grid.widened(max(lengths[i] for i in batch))
        assert len(batch) == 1 or width * len(batch) <= budget
        if number < len(batches) - 1 and width * rows <= budget:
            assert len(batch) % rows == 0


def test_a_grid_widens_no_further_than_the_model_reads() -> None:
    grid = Grid(width=8, rows=4, longest=101)
    assert [grid.widened(n) for n in (1, 8, 9, 96, 97, 101, 130)] == [8, 8, 16, 96, 101, 101, 130]
    assert ANY_SHAPE.widened(13) == 13


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_shapes_come_again_where_kernels_are_compiled_for_each(
    tiny: Callable[[str], Path], kind: str
) -> None:
    dice = np.random.default_rng(0)
    queries = [[" ".join(["word"] * n) for n in dice.integers(1, 60, 12)] for _ in range(60)]
    shapes: dict[str, set[tuple[int, int]]] = {"bfloat16": set(), "float32": set()}
    for dtype, seen in shapes.items():
        model = load_scoring_model(tiny(kind), dtype=dtype, device="cpu")  # type: ignore[arg-type]
        scorer = Scorer(model, batch_tokens=200)
        model.model.get_input_embeddings().register_forward_pre_hook(
            lambda _, given, seen=seen: seen.add(tuple(given[0].shape))
        )
        for texts in queries:
            scorer.score([("which word", f"{i} {text}") for i, text in enumerate(texts)])
        if dtype == "bfloat16":
            # one row alone is a query that its passages share
            assert all(s[1] % 8 == 0 or s[1] == model.contract.longest or s[0] == 1 for s in seen)
    assert len(shapes["bfloat16"]) < 0.6 * len(shapes["float32"])


def test_elsewhere_any_shape_will_do() -> None:
    assert grid_for(torch.device("cuda"), "bfloat16", 100) == ANY_SHAPE
    assert grid_for(torch.device("cpu"), "float32", 100) == ANY_SHAPE
