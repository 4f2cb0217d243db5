"""Losses: (scores, targets, mask) → scalar. They know torch, and no model, file or recipe.

All take (B, N) scores, (B, N) targets and a (B, N) bool mask (False on padding), compute in
float32, and return a scalar that padding cannot touch, in its gradient neither. A new loss is one
function and one entry in `LOSSES`.
"""

from dear.losses.listwise import kl, listnet, softmax_cross_entropy
from dear.losses.objective import Objective, Term
from dear.losses.pairwise import (
    lambda_loss,
    margin_mse,
    ranknet,
    ranknet_judgements,
    weighted_ranknet,
)
from dear.losses.pointwise import binary_cross_entropy, mse
from dear.losses.table import LOSSES, Loss, find_loss

__all__ = [
    "LOSSES",
    "Loss",
    "Objective",
    "Term",
    "binary_cross_entropy",
    "find_loss",
    "kl",
    "lambda_loss",
    "listnet",
    "margin_mse",
    "mse",
    "ranknet",
    "ranknet_judgements",
    "softmax_cross_entropy",
    "weighted_ranknet",
]
