"""The losses by name: a new one is a function in this folder and an entry here."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from dear.errors import ConfigError, excerpt, nearest
from dear.losses.listwise import kl, listnet, softmax_cross_entropy
from dear.losses.pairwise import (
    lambda_loss,
    margin_mse,
    ranknet,
    ranknet_judgements,
    weighted_ranknet,
)
from dear.losses.pointwise import binary_cross_entropy, mse


@dataclass(frozen=True, slots=True)
class Loss:
    """One entry of `LOSSES`: the function, the targets it reads, and where it comes from."""

    name: str
    function: Callable[..., Tensor]
    targets: Literal["judgements", "teacher"]
    paper: str

    @property
    def options(self) -> tuple[str, ...]:
        """The names of its keyword options."""
        parameters = inspect.signature(self.function).parameters.values()
        return tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)


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


def find_loss(name: str) -> Loss:
    """The entry of `LOSSES`; ConfigError with the nearest name where there is none."""
    if name not in LOSSES:
        raise ConfigError(f"unknown loss {excerpt(name)}{nearest(name, LOSSES)}")
    return LOSSES[name]
