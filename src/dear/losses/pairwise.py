"""Losses that compare two passages of one query: only differences of scores count."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from dear.losses.masking import (
    both_real,
    clean,
    differences,
    mean_over,
    require_choice,
    require_cutoff,
    require_flag,
    require_positive,
)

AGAINST = ("all", "first")
WEIGHTINGS = ("ndcg2++", "lambdarank")


def ranknet(
    scores: Tensor,
    targets: Tensor,
    mask: Tensor,
    *,
    soft: bool = False,
    temperature: float = 1.0,
) -> Tensor:
    """Pairwise logistic loss over teacher preferences (RankNet, Burges et al. 2005).

    scores: (B, N) student logits.  targets: (B, N) teacher logits, any scale.
    mask: (B, N) bool, False on padding. Ties of the teacher and padding add nothing.
    soft: False trusts the teacher's order alone: log(1 + exp(-(s_i - s_j))) where t_i > t_j.
        True aims at the probability sigmoid((t_i - t_j) / temperature) instead, so the margin
        stops growing once it equals the teacher's.
    temperature: > 0, in the teacher's logits; counts only where soft.
    Returns a float32 scalar in nats, the mean over pairs with t_i > t_j; 0 where there is none.
    """
    require_flag("soft", soft)
    require_positive("temperature", temperature)
    scores, targets = clean(scores, targets, mask)
    margins, preferences = differences(scores), differences(targets)
    losses = F.softplus(-margins)
    if soft:
        # p softplus(-m) + (1 - p) softplus(m), because softplus(m) = softplus(-m) + m
        losses = losses + torch.sigmoid(-preferences / temperature) * margins
    return mean_over(losses, _better(targets) & both_real(mask))


def ranknet_judgements(scores: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """Pairwise logistic loss over judged pairs (RankNet, Burges et al. 2005).

    scores: (B, N) logits.  targets: (B, N) grades.  mask: (B, N) bool, False on padding.
    Each pair with grade_i > grade_j aims at probability 1, whatever the distance of the grades:
    sigmoid(grade_i - grade_j) would stop at 0.73 for grades 1 and 0. Equal grades add nothing.
    Returns a float32 scalar in nats, the mean over pairs with grade_i > grade_j; 0 where there
    is none.
    """
    return ranknet(scores, targets, mask)


def weighted_ranknet(scores: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """Pairwise logistic loss, each pair weighed by its ranks (FIRST, Gangi Reddy et al. 2024).

    scores: (B, N) student logits.  targets: (B, N) teacher logits; only their order counts.
    mask: (B, N) bool, False on padding.
    For t_i > t_j the loss is log(1 + exp(-(s_i - s_j))) with weight 1 / (r_i + r_j), r the
    teacher's ranks from 1: the top counts most. Equal targets share the mean of their ranks and
    add no pair. The paper sums over the pairs; here it is their weighted mean, so that lists of
    different length weigh the same.
    Returns a float32 scalar in nats, the mean over queries with two different targets; 0 where
    there is none.
    """
    scores, targets = clean(scores, targets, mask)
    pairs = _better(targets) & both_real(mask)
    ranks = _ranks(targets, targets, mask)
    # padding has ranks too, from 0.5 on: nothing is divided by 0
    weights = torch.where(pairs, 1.0 / (ranks.unsqueeze(2) + ranks.unsqueeze(1)), 0.0)
    losses = torch.where(pairs, weights * F.softplus(-differences(scores)), 0.0)
    total = weights.sum(dim=(1, 2))
    per_query = losses.sum(dim=(1, 2)) / torch.where(total > 0, total, 1.0)
    return mean_over(per_query, pairs.any(dim=2).any(dim=1))


def margin_mse(scores: Tensor, targets: Tensor, mask: Tensor, *, against: str = "all") -> Tensor:
    """Squared distance to the teacher's margins (MarginMSE, Hofstätter et al. 2020).

    scores, targets: (B, N) student and teacher logits, on one scale but for a constant a query.
    mask: (B, N) bool, False on padding.
    against: "all" compares every two passages; "first" compares the passage at position 0, the
        positive by custom, with each other one, as the paper does (nothing where it is padding).
    Returns a float32 scalar in squared logits, the mean over pairs; 0 where there is none.
    """
    require_choice("against", against, AGAINST)
    scores, targets = clean(scores, targets, mask)
    pairs = both_real(mask).triu(diagonal=1)  # each two passages once, and none with itself
    if against == "first":
        pairs = pairs[:, :1]
    errors = differences(scores - targets)[:, : pairs.shape[1]]
    return mean_over(errors.square(), pairs)


def lambda_loss(
    scores: Tensor,
    targets: Tensor,
    mask: Tensor,
    *,
    weighting: str = "ndcg2++",
    k: int | None = None,
    mu: float = 10.0,
) -> Tensor:
    """Pairwise logistic loss, each pair weighed by what it means for nDCG (Wang et al. 2018).

    scores: (B, N) logits.  targets: (B, N) grades; below 0 counts as 0, as in trec_eval.
    mask: (B, N) bool, False on padding.
    For grade_i > grade_j the loss is w_ij log(1 + exp(-(s_i - s_j))), always in favour of the
    better passage, with w_ij = |G_i - G_j| / idealDCG · v_ij, G = 2^grade - 1.
    weighting: v_ij, for ranks r by the present scores and D(r) = log2(1 + r),
        "lambdarank": |1/D(r_i) - 1/D(r_j)|, so w_ij is the change in nDCG if the two trade
            places (Burges et al. 2006);
        "ndcg2++": that plus mu |1/D(d) - 1/D(d + 1)| with d = |r_i - r_j|.
        No gradient flows through the weights, so the value may jump where two passages trade
        places, up as well as down.
    k: looks at nDCG@k: 1/D is 0 below rank k, and of a pair at least one must stand in the best
        k, so that a positive far below the cut is still pulled up. None takes the whole list.
    mu: > 0, the weight of the second part of "ndcg2++".
    Equal scores rank the worse passage first; that rewards no order of the input.
    Returns a float32 scalar in nats, summed over a query's pairs (the paper's sum, in log2, is
    1 / ln 2 of it), the mean over queries with two different grades; 0 where there is none.
    """
    require_choice("weighting", weighting, WEIGHTINGS)
    require_cutoff("k", k)
    require_positive("mu", mu)
    scores, targets = clean(scores, targets, mask)
    grades = targets.clamp(min=0.0)
    pairs = _better(grades) & both_real(mask)
    ranks = _ranks(scores, grades, mask)
    weights = _rank_weights(ranks, k=k, mu=mu if weighting == "ndcg2++" else 0.0)
    gains = _gains(grades, k=k)
    losses = (weights * differences(gains)).abs() * F.softplus(-differences(scores))
    per_query = torch.where(pairs, losses, 0.0).sum(dim=(1, 2))
    return mean_over(per_query, pairs.any(dim=2).any(dim=1))


def _better(targets: Tensor) -> Tensor:
    """(B, N, N) bool: i is better than j. NaN counts, so that it reaches the loss."""
    return ~(targets.unsqueeze(2) <= targets.unsqueeze(1))


def _ranks(scores: Tensor, grades: Tensor, mask: Tensor) -> Tensor:
    """(B, N) ranks from 1 by falling score, padding left out.

    Equal scores go by rising grade; passages alike in both share the mean of their ranks (x.5 may
    occur), so that a permutation of the input permutes the ranks and nothing else.
    """
    mine, other = scores.unsqueeze(2), scores.unsqueeze(1)
    tied = mine == other
    alike = tied & (grades.unsqueeze(2) == grades.unsqueeze(1))
    before = (other > mine) | (tied & (grades.unsqueeze(1) < grades.unsqueeze(2)))
    ahead = (before.float() + 0.5 * alike.float()) * mask.unsqueeze(1).float()
    return ahead.sum(dim=2) + 0.5  # itself is half of the 1 that ranks start at


def _rank_weights(ranks: Tensor, *, k: int | None, mu: float) -> Tensor:
    """(B, N, N) weights of the pairs by their ranks alone; 0 where both stand below k."""
    depth = math.inf if k is None else k
    in_reach = ranks <= depth
    discounts = torch.where(in_reach, 1.0 / torch.log2(1.0 + ranks), 0.0)
    weights = differences(discounts).abs()
    if mu:
        # ranks of two different grades differ by 1 at least; the clamp spares the others 1/0
        distance = differences(ranks).abs().clamp(min=1.0)
        steps = 1.0 / torch.log2(1.0 + distance) - 1.0 / torch.log2(2.0 + distance)
        weights = weights + mu * steps
    return weights * (in_reach.unsqueeze(2) | in_reach.unsqueeze(1))


def _gains(grades: Tensor, *, k: int | None) -> Tensor:
    """(B, N) gains 2^grade - 1 over the DCG@k of the ideal order; padding has grade 0, gain 0."""
    gains = torch.exp2(grades) - 1.0
    best = gains.sort(dim=1, descending=True).values[:, :k]
    places = torch.arange(2, best.shape[1] + 2, device=best.device, dtype=best.dtype)
    ideal = (best / places.log2()).sum(dim=1, keepdim=True)
    return gains / torch.where(ideal > 0, ideal, 1.0)
