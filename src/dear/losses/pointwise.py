"""Losses that judge one passage at a time: adding a constant to all scores changes them."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from dear.losses.masking import clean, mean_over


def binary_cross_entropy(scores: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """Logistic loss of each passage (monoBERT, Nogueira and Cho 2019).

    scores: (B, N) logits.  targets: (B, N) grades; above 0 is a positive, all else a negative.
    mask: (B, N) bool, False on padding.
    Returns a float32 scalar in nats, the mean over real passages; 0 where there is none.
    """
    scores, targets = clean(scores, targets, mask)
    losses = F.binary_cross_entropy_with_logits(
        scores, (targets > 0).to(scores.dtype), reduction="none"
    )
    return mean_over(losses, mask)


def mse(scores: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """Squared distance to the teacher's logits (Ba and Caruana 2014).

    scores, targets: (B, N) student and teacher logits, on one scale.
    mask: (B, N) bool, False on padding.
    Returns a float32 scalar in squared logits, the mean over real passages; 0 where there is none.
    """
    scores, targets = clean(scores, targets, mask)
    return mean_over((scores - targets).square(), mask)
