"""The numbers: worked out by hand, and again, passage by passage, in plain Python."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from loss_cases import CASES, Case, Groups, groups

E = math.e
LN2 = math.log(2)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def softmax(values: list[float]) -> list[float]:
    powers = [math.exp(v) for v in values]
    return [p / sum(powers) for p in powers]


def log_rank(rank: float) -> float:
    return math.log2(1 + rank)


# worked by hand -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "scores", "targets", "expected"),
    [
        (Case("ce"), [0, 0, 0, 0], [0, 1, 0, 0], math.log(4)),
        (Case("ce"), [0, 0, 0, 0], [2, 1, 0, 0], math.log(4)),  # log 2 would be the smallest
        (Case("ce"), [1, 0], [1, 0], math.log(1 + 1 / E)),
        (Case("ce"), [LN2, 0, 0], [1, 0, 0], LN2),
        (Case("ce"), [LN2, 0, 0], [1, 1, 0], 1.5 * LN2),  # (log 2 + log 4) / 2
        (Case("bce"), [0, 0], [3, 0], LN2),
        (Case("bce"), [1, -1, 1], [1, 0, 0], (2 * softplus(-1) + softplus(1)) / 3),
        (Case("ranknet"), [1, 3, 0], [0.9, 0.1, 0.1], (softplus(2) + softplus(-1)) / 2),
        (
            Case("ranknet", {"soft": True, "temperature": 2.0}),
            [1, 0],
            [5, 1],
            sigmoid(2) * softplus(-1) + sigmoid(-2) * softplus(1),
        ),
        (Case("ranknet-judgements"), [3, 1, 1], [1, 0, 0], softplus(-2)),
        (Case("ranknet-judgements"), [0, 0], [3, 0], LN2),
        (
            Case("weighted-ranknet"),  # ranks 1, 3, 2: weights 1/4, 1/3 and 1/5
            [1, 3, 0],
            [7, 1, 2],
            (softplus(2) / 4 + softplus(-1) / 3 + softplus(3) / 5) / (1 / 4 + 1 / 3 + 1 / 5),
        ),
        (Case("weighted-ranknet"), [1, 3], [2, 2], 0.0),
        (Case("margin-mse"), [1, 0, 0], [3, 1, 0], (1**2 + 2**2 + 1**2) / 3),
        (Case("margin-mse", {"against": "first"}), [1, 0, 0], [3, 1, 0], (1**2 + 2**2) / 2),
        (Case("mse"), [1, 0], [3, -1], 2.5),
        (Case("listnet"), [0, 0], [7, 2], LN2),
        (
            Case("listnet"),
            [1, 0],
            [LN2, 0],
            2 / 3 * math.log(1 + 1 / E) + 1 / 3 * math.log(1 + E),
        ),
        (Case("kl"), [0, 0], [math.log(3), 0], 0.75 * math.log(1.5) + 0.25 * math.log(0.5)),
        (
            Case("kl", {"temperature": 2.0}),
            [0, 0],
            [2 * math.log(3), 0],
            0.75 * math.log(1.5) + 0.25 * math.log(0.5),
        ),
        # one positive at rank 2 of 2: idealDCG 1, gain 1, ranks 1 and 2
        (
            Case("lambda", {"weighting": "lambdarank"}),
            [0, 1],
            [1, 0],
            (1 / log_rank(1) - 1 / log_rank(2)) * softplus(1),
        ),
        (
            Case("lambda"),
            [0, 1],
            [1, 0],
            (1 / log_rank(1) - 1 / log_rank(2) + 10 * (1 / log_rank(1) - 1 / log_rank(2)))
            * softplus(1),
        ),
        # the positive at rank 3 and k = 1: it gains by trading places with the first only
        (Case("lambda", {"weighting": "lambdarank", "k": 1}), [0, 2, 1], [1, 0, 0], softplus(2)),
        (
            Case("lambda", {"k": 1, "mu": 1.0}),
            [0, 2, 1],
            [1, 0, 0],
            (1 + 1 / log_rank(2) - 1 / log_rank(3)) * softplus(2),
        ),
        # grades 2, 1, 0 in the right order: gains 3, 1, 0
        (
            Case("lambda", {"weighting": "lambdarank"}),
            [2, 1, 0],
            [2, 1, 0],
            (
                2 * (1 / log_rank(1) - 1 / log_rank(2)) * softplus(-1)
                + 3 * (1 / log_rank(1) - 1 / log_rank(3)) * softplus(-2)
                + 1 * (1 / log_rank(2) - 1 / log_rank(3)) * softplus(-1)
            )
            / (3 / log_rank(1) + 1 / log_rank(2)),
        ),
        # a tie is read against the better passage: it stands second
        (
            Case("lambda", {"weighting": "lambdarank"}),
            [0, 0],
            [1, 0],
            (1 / log_rank(1) - 1 / log_rank(2)) * LN2,
        ),
    ],
    ids=str,
)
def test_golden_values(
    case: Case, scores: list[float], targets: list[float], expected: float
) -> None:
    value = case(
        torch.tensor([scores], dtype=torch.float32),
        torch.tensor([targets], dtype=torch.float32),
        torch.ones(1, len(scores), dtype=torch.bool),
    )
    assert value.item() == pytest.approx(expected, rel=1e-5)


def test_golden_numbers_do_not_drift() -> None:
    scores = torch.tensor([[2.0, 0.5, -1.0, 0.0], [0.25, 1.5, 9.0, -0.5]])
    targets = torch.tensor([[1.0, 0.0, 2.0, 0.0], [0.0, 1.0, 9.0, 0.0]])
    mask = torch.tensor([[True, True, True, True], [True, True, False, True]])
    measured = {str(case): round(case(scores, targets, mask).item(), 4) for case in CASES}
    assert measured == pytest.approx(GOLDEN, abs=2e-4)


GOLDEN = {
    "ce": 1.0972,
    "bce": 0.6584,
    "ranknet": 0.9672,
    "ranknet soft=True temperature=2.0": 1.0734,
    "ranknet-judgements": 0.9672,
    "weighted-ranknet": 0.8595,
    "lambda": 4.9315,
    "lambda k=2 mu=3.0": 2.0734,
    "lambda weighting=lambdarank": 0.7536,
    "lambda weighting=lambdarank k=2": 1.4208,
    "margin-mse": 4.4861,
    "margin-mse against=first": 3.5750,
    "mse": 1.5446,
    "listnet": 1.7515,
    "kl": 0.7395,
    "kl temperature=2.0": 0.1826,
}


# in plain Python ----------------------------------------------------------------------------------

Rows = list[tuple[list[float], list[float]]]  # (scores, targets) of each query, padding taken out


def mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def plain_ce(rows: Rows) -> float:
    losses = []
    for scores, grades in rows:
        picked = [math.log(p) for p, g in zip(softmax(scores), grades, strict=True) if g > 0]
        if 0 < len(picked) < len(scores):
            losses.append(-mean(picked))
    return mean(losses)


def plain_bce(rows: Rows) -> float:
    return mean([softplus(-s if g > 0 else s) for row in rows for s, g in zip(*row, strict=True)])


def plain_mse(rows: Rows) -> float:
    return mean([(s - t) ** 2 for row in rows for s, t in zip(*row, strict=True)])


def plain_ranknet(rows: Rows, soft: bool = False, temperature: float = 1.0) -> float:
    losses = []
    for scores, targets in rows:
        for i, j in itertools.permutations(range(len(scores)), 2):
            if targets[i] > targets[j]:
                goal = sigmoid((targets[i] - targets[j]) / temperature) if soft else 1.0
                p = sigmoid(scores[i] - scores[j])
                losses.append(-goal * math.log(p) - (1 - goal) * math.log(1 - p))
    return mean(losses)


def plain_weighted_ranknet(rows: Rows) -> float:
    losses = []
    for scores, targets in rows:
        ranks = [
            1 + sum(u > t for u in targets) + (sum(u == t for u in targets) - 1) / 2
            for t in targets
        ]
        pairs = [(i, j) for i, t in enumerate(targets) for j, u in enumerate(targets) if t > u]
        weights = [1 / (ranks[i] + ranks[j]) for i, j in pairs]
        if pairs:
            lost = [softplus(scores[j] - scores[i]) for i, j in pairs]
            losses.append(sum(w * x for w, x in zip(weights, lost, strict=True)) / sum(weights))
    return mean(losses)


def plain_margin_mse(rows: Rows, against: str = "all") -> float:
    assert against == "all"
    losses = []
    for scores, targets in rows:
        for i, j in itertools.combinations(range(len(scores)), 2):
            losses.append(((scores[i] - scores[j]) - (targets[i] - targets[j])) ** 2)
    return mean(losses)


def plain_listnet(rows: Rows) -> float:
    return mean(
        [
            -sum(p * math.log(q) for p, q in zip(softmax(t), softmax(s), strict=True))
            for s, t in rows
            if len(s) > 1
        ]
    )


def plain_kl(rows: Rows, temperature: float = 1.0) -> float:
    losses = []
    for scores, targets in rows:
        if len(scores) > 1:
            teacher = softmax([t / temperature for t in targets])
            student = softmax([s / temperature for s in scores])
            losses.append(sum(p * math.log(p / q) for p, q in zip(teacher, student, strict=True)))
    return mean(losses)


def plain_lambda(
    rows: Rows, weighting: str = "ndcg2++", k: int | None = None, mu: float = 10.0
) -> float:
    losses = []
    for scores, raw in rows:
        n, depth = len(scores), k or len(scores)
        grades = [max(g, 0.0) for g in raw]
        order = sorted(range(n), key=lambda i: (-scores[i], grades[i]))
        place = {i: rank for rank, i in enumerate(order, start=1)}
        best = sorted(grades, reverse=True)[:depth]
        ideal = sum((2**g - 1) / log_rank(r) for r, g in enumerate(best, start=1))
        pairs = [(i, j) for i in range(n) for j in range(n) if grades[i] > grades[j]]
        loss = 0.0
        for i, j in pairs:
            a, b = place[i], place[j]
            if min(a, b) > depth:
                continue
            weight = abs((a <= depth) / log_rank(a) - (b <= depth) / log_rank(b))
            if weighting == "ndcg2++":
                weight += mu * abs(1 / log_rank(abs(a - b)) - 1 / log_rank(abs(a - b) + 1))
            loss += (
                weight * (2 ** grades[i] - 2 ** grades[j]) / ideal * softplus(scores[j] - scores[i])
            )
        if pairs:
            losses.append(loss)
    return mean(losses)


PLAIN: dict[str, Callable[..., float]] = {
    "ce": plain_ce,
    "bce": plain_bce,
    "ranknet": plain_ranknet,
    "ranknet-judgements": plain_ranknet,
    "weighted-ranknet": plain_weighted_ranknet,
    "lambda": plain_lambda,
    "margin-mse": plain_margin_mse,
    "mse": plain_mse,
    "listnet": plain_listnet,
    "kl": plain_kl,
}


def twins(scores: list[float], grades: list[float]) -> bool:
    """Whether two passages share score and grade: the plain version has no mean rank for them."""
    pairs = [(s, max(g, 0.0)) for s, g in zip(scores, grades, strict=True)]
    return len(set(pairs)) < len(pairs)


@pytest.mark.parametrize("case", [c for c in CASES if c.options.get("against") != "first"], ids=str)
@settings(deadline=None, max_examples=30)
@given(batch=groups())
def test_agrees_with_loops_over_passages(case: Case, batch: Groups) -> None:
    targets, mask = batch.targets(case), batch.mask
    rows: Rows = []
    kept: list[int] = []
    for i, real in enumerate(mask):
        row = batch.scores[i][real].tolist(), targets[i][real].tolist()
        if not (case.name == "lambda" and twins(*row)):
            rows.append(row)
            kept.append(i)
    options: dict[str, Any] = dict(case.options)
    value = case(batch.scores[kept], targets[kept], mask[kept]).item()
    assert value == pytest.approx(PLAIN[case.name](rows, **options), rel=1e-4, abs=1e-5)
