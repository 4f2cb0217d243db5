"""Faults of published rerankers' losses, written out here and shown to be absent from ours."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from loss_cases import Case, value_and_gradient
from torch import Tensor
from torch.nn import functional as F


def real(*shape: int) -> Tensor:
    return torch.ones(*shape, dtype=torch.bool)


def gradient(case: Case, scores: Tensor, targets: Tensor, mask: Tensor | None = None) -> Tensor:
    return value_and_gradient(case, scores, targets, real(*scores.shape) if mask is None else mask)[
        1
    ]


# two passages a query: one margin is all there is -------------------------------------------------


def directions(passages: int) -> Tensor:
    """Gradients of CE, RankNet and KL at one random student, one to a row."""
    random = torch.Generator().manual_seed(1)
    scores, teacher = torch.randn(2, 1, passages, generator=random)
    grades = F.one_hot(teacher.argmax(dim=1), passages)
    return torch.cat(
        [
            gradient(Case("ce"), scores, grades),
            gradient(Case("ranknet"), scores, teacher),
            gradient(Case("kl"), scores, teacher),
        ]
    )


def test_over_two_passages_the_three_losses_pull_along_one_line() -> None:
    assert torch.linalg.matrix_rank(directions(2), rtol=1e-3) == 1
    scores = torch.tensor([[1.0, 0.5]])
    grades = torch.tensor([[1.0, 0.0]])
    ce = Case("ce")(scores, grades, real(1, 2))
    ranknet = Case("ranknet-judgements")(scores, grades, real(1, 2))
    torch.testing.assert_close(ce, ranknet)  # not two losses but one, under two names


def test_over_eight_passages_they_teach_three_things() -> None:
    assert torch.linalg.matrix_rank(directions(8), rtol=1e-3) == 3


# a short batch regrouped by view ------------------------------------------------------------------


def regrouped_ce(flat: Tensor, group: int) -> Tensor:
    """The faulty way: whatever has arrived is cut into rows, the first of a row is the positive."""
    rows = flat[: len(flat) // group * group].view(-1, group)
    return F.cross_entropy(rows, torch.zeros(len(rows), dtype=torch.long))


def test_ragged_groups_do_not_mix_queries() -> None:
    # 4 passages, then 3, then 1: cut by fours, the second row is made of two queries
    lists = [
        torch.tensor([1.0, 0.0, 2.0, -1.0]),
        torch.tensor([0.5, 3.0, 1.0]),
        torch.tensor([6.0]),
    ]
    scores = torch.nn.utils.rnn.pad_sequence(lists, batch_first=True)
    mask = torch.arange(4) < torch.tensor([[4], [3], [1]])
    grades = torch.zeros(3, 4)
    grades[:, 0] = 1.0

    alone = [Case("ce")(row[None], torch.eye(len(row))[:1], real(1, len(row))) for row in lists[:2]]
    ours = Case("ce")(scores, grades, mask)
    torch.testing.assert_close(ours, torch.stack(alone).mean())

    flat = torch.cat(lists).requires_grad_()
    faulty = regrouped_ce(flat, 4)
    assert abs(faulty.item() - ours.item()) > 1
    faulty.backward()
    assert flat.grad is not None
    assert flat.grad[7] > 0.1  # the third query's only passage is a negative of the second


@pytest.mark.parametrize("name", ["ce", "ranknet", "kl", "lambda", "listnet", "margin-mse"])
def test_one_query_does_not_feel_the_scores_of_another(name: str) -> None:
    random = torch.Generator().manual_seed(2)
    scores = torch.randn(2, 4, generator=random)
    targets = torch.tensor([[1.0, 0.0, 2.0, 0.0], [0.0, 1.0, 0.0, 0.0]])
    mask = torch.tensor([[True] * 4, [True, True, True, False]])
    other = scores.clone()
    other[1] = 5 * torch.randn(4, generator=random)
    before = gradient(Case(name), scores, targets, mask)[0]
    assert torch.equal(gradient(Case(name), other, targets, mask)[0], before)
    assert before.any()


# RankNet on hard labels ---------------------------------------------------------------------------


def sigmoid_target_ranknet(scores: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """The faulty RankNet: grades are taken for logits, and equal labels are a pair like others."""
    margins = (scores[:, :, None] - scores[:, None, :])[:, ~torch.eye(scores.shape[1]).bool()]
    wanted = (labels[:, :, None] - labels[:, None, :])[:, ~torch.eye(scores.shape[1]).bool()]
    return F.binary_cross_entropy_with_logits(margins, torch.sigmoid(wanted))


def test_a_judged_pair_aims_at_certainty_and_not_at_073() -> None:
    labels = torch.tensor([[1.0, 0.0]])
    for margin in (0.5, 1.5, 3.0, 8.0):
        scores = torch.tensor([[margin, 0.0]])
        _, faulty = value_and_gradient(sigmoid_target_ranknet, scores, labels, real(1, 2))
        assert (faulty[0, 0] > 0) == (margin > 1)  # beyond margin 1 it pulls the positive down
        ours = gradient(Case("ranknet-judgements"), scores, labels)
        torch.testing.assert_close(ours[0, 0], -torch.sigmoid(torch.tensor(-margin)))
    at_rest, stop = value_and_gradient(
        sigmoid_target_ranknet, torch.tensor([[1.0, 0.0]]), labels, real(1, 2)
    )
    torch.testing.assert_close(stop, torch.zeros(1, 2), rtol=0, atol=1e-6)
    assert at_rest > 0.5  # and can never reach zero, as ours does:
    assert Case("ranknet-judgements")(torch.tensor([[20.0, 0.0]]), labels, real(1, 2)) < 1e-6


def test_the_distance_of_two_grades_does_not_change_the_aim() -> None:
    scores = torch.tensor([[0.3, 0.0]])
    near, far = torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 0.0]])
    judged = Case("ranknet-judgements")
    assert judged(scores, near, real(1, 2)) == judged(scores, far, real(1, 2))
    assert sigmoid_target_ranknet(scores, near, real(1, 2)) != sigmoid_target_ranknet(
        scores, far, real(1, 2)
    )


def test_equal_labels_do_not_pull_scores_together() -> None:
    scores = torch.tensor([[4.0, 1.0, 0.0]])
    labels = torch.tensor([[0.0, 0.0, 0.0]])
    _, faulty = value_and_gradient(sigmoid_target_ranknet, scores, labels, real(1, 3))
    assert faulty[0, 0] > 0.1 > -0.1 > faulty[0, 2]  # the highest down, the lowest up
    assert not gradient(Case("ranknet-judgements"), scores, labels).any()
    assert not gradient(Case("ranknet"), scores, labels).any()
    assert not gradient(Case("lambda"), scores, labels).any()


# LambdaRank that does not know which of two is better ---------------------------------------------


def blind_lambdarank(scores: Tensor, grades: Tensor, mask: Tensor) -> Tensor:
    """The faulty LambdaRank: |change in nDCG| weighs both (i, j) and (j, i), so neither wins."""
    ranks = scores.argsort(descending=True).argsort().float() + 1
    gains, discounts = torch.exp2(grades) - 1, 1 / torch.log2(1 + ranks)
    change = (gains[:, :, None] - gains[:, None, :]) * (
        discounts[:, :, None] - discounts[:, None, :]
    )
    return (change.abs() * F.softplus(scores[:, None, :] - scores[:, :, None])).sum()


@pytest.mark.parametrize("weighting", ["lambdarank", "ndcg2++"])
def test_lambda_knows_which_of_two_is_better(weighting: str) -> None:
    ours = Case("lambda", {"weighting": weighting})
    right, wrong = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    grades = torch.tensor([[1.0, 0.0]])

    assert blind_lambdarank(right, grades, real(1, 2)) == blind_lambdarank(
        wrong, grades, real(1, 2)
    )
    _, faulty = value_and_gradient(blind_lambdarank, right, grades, real(1, 2))
    assert faulty[0, 0] > 0  # a right order is undone

    assert ours(right, grades, real(1, 2)) < ours(wrong, grades, real(1, 2)) / 5
    for scores in (right, wrong):
        assert gradient(ours, scores, grades)[0, 0] < 0 < gradient(ours, scores, grades)[0, 1]
        assert (
            gradient(ours, scores, grades.flip(1))[0, 0]
            > 0
            > gradient(ours, scores, grades.flip(1))[0, 1]
        )


def test_blind_descent_levels_the_scores_and_ours_sorts_them() -> None:
    grades = torch.tensor([[0.0, 3.0, 1.0, 2.0, 0.0]])
    start = torch.tensor([[2.0, 0.5, 1.0, -1.0, 0.0]])

    def descend(loss: Callable[..., Tensor]) -> Tensor:
        scores = start.clone()
        for _ in range(300):
            scores = scores - 0.1 * value_and_gradient(loss, scores, grades, real(1, 5))[1]
        return scores[0]

    sorted_by_ours = descend(Case("lambda"))
    assert sorted_by_ours.argsort(descending=True)[:3].tolist() == [1, 3, 2]
    levelled = descend(blind_lambdarank)
    assert levelled.max() - levelled.min() < 0.5
    assert sorted_by_ours.max() - sorted_by_ours.min() > 3


def test_a_positive_far_below_the_cut_is_still_pulled_up() -> None:
    # with k, some keep only pairs of which both stand in the best k: no gradient for this positive
    scores = torch.arange(20, 0, -1)[None].float()
    grades = torch.zeros(1, 20)
    grades[0, 15] = 1.0
    for weighting in ("lambdarank", "ndcg2++"):
        pull = gradient(Case("lambda", {"weighting": weighting, "k": 3}), scores, grades)
        assert pull[0, 15] < 0
        assert (pull[0, :3] > 0).all()
        assert not pull[0, 3:15].any()


def test_close_scores_are_not_tied_by_half_precision() -> None:
    # in bfloat16, 16 + 1/64 is 16: arithmetic there would see a margin of 0
    margin = 1 / 64
    scores = torch.tensor([[16.0, 0.0]]).bfloat16()
    teacher = torch.tensor([[16.0 + margin, 0.0]])
    assert torch.tensor(16.0 + margin).bfloat16() == 16.0
    value = Case("margin-mse")(scores, teacher, real(1, 2)).item()
    assert math.isclose(value, margin**2, rel_tol=1e-6)
