"""Losses: (scores, targets, mask) → scalar. They know torch, and no model, file or recipe.

All take (B, N) scores, (B, N) targets and a (B, N) bool mask (False on padding), compute in
float32, and return a scalar that padding cannot touch, in its gradient neither. A new loss is one
function and one entry in `LOSSES`.
"""

from dear.losses.listwise import kl, listnet, softmax_cross_entropy
from dear.losses.objective import Loss, Objective, Term, find_loss
from dear.losses.pairwise import (
    lambda_loss,
    margin_mse,
    ranknet,
    ranknet_judgements,
    weighted_ranknet,
)
from dear.losses.pointwise import binary_cross_entropy, mse

LOSSES: dict[str, Loss] = {
    "ce": Loss("ce", softmax_cross_entropy, "judgements", "Gao et al. 2021, arXiv 2101.08751"),
    "bce": Loss(
        "bce", binary_cross_entropy, "judgements", "Nogueira and Cho 2019, arXiv 1901.04085"
    ),
    "ranknet-judgements": Loss(
        "ranknet-judgements", ranknet_judgements, "judgements", "Burges et al. 2005, ICML"
    ),
    "lambda": Loss("lambda", lambda_loss, "judgements", "Wang et al. 2018, CIKM"),
    "ranknet": Loss("ranknet", ranknet, "teacher", "Burges et al. 2005, ICML"),
    "weighted-ranknet": Loss(
        "weighted-ranknet", weighted_ranknet, "teacher", "Gangi Reddy et al. 2024, arXiv 2406.15657"
    ),
    "margin-mse": Loss(
        "margin-mse", margin_mse, "teacher", "Hofstätter et al. 2020, arXiv 2010.02666"
    ),
    "mse": Loss("mse", mse, "teacher", "Ba and Caruana 2014, arXiv 1312.6184"),
    "listnet": Loss("listnet", listnet, "teacher", "Cao et al. 2007, ICML"),
    "kl": Loss("kl", kl, "teacher", "Hinton et al. 2015, arXiv 1503.02531"),
}

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
