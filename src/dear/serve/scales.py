"""The scale of served scores: a number in [0, 1] that keeps the model's order, under a name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dear.errors import ConfigError
from dear.rank.pointwise import PointwiseRanker
from dear.rank.reranker import Reranker

Floats: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """name: what answers state.  raw: the name of the model's own scores.  apply: never falling.
    revision: of a map's, None for the others."""

    name: str
    raw: str
    apply: Callable[[Floats], Floats]
    revision: str | None = None

    @property
    def is_probability(self) -> bool:
        return self.revision is not None


def _sigmoid(scores: Floats) -> Floats:
    # the smaller of the two exponents has no overflow
    small = np.exp(-np.abs(scores))
    found: Floats = np.where(scores >= 0, 1 / (1 + small), small / (1 + small))
    return found


def _cosine(scores: Floats) -> Floats:
    return np.clip((1 + scores) / 2, 0.0, 1.0)


def _bounded(scores: Floats) -> Floats:
    found: Floats = (1 + scores / (1 + np.abs(scores))) / 2
    return found


def _likelihood(scores: Floats) -> Floats:
    return np.exp(np.minimum(scores, 0.0))


def scale_of(reranker: Reranker) -> Scale:
    """calibrated   a map's probability, where the model brings one
    sigmoid      of the logit, of one-logit models and of the log-odds of "yes"
    cosine       (1 + c) / 2
    likelihood   of a token of the query
    bounded      (1 + s / (1 + |s|)) / 2, of products and distances, which have no end
    relative     sigmoid of scores that compare within one answer alone: fused and listwise ones
    """
    ranker = reranker.ranker
    try:
        calibration = reranker.calibration
    except ConfigError:
        calibration = None
    if calibration is not None:
        revision = calibration.inputs.digest if calibration.inputs.complete else "unstamped"
        return Scale(
            name="calibrated",
            raw="logit",
            apply=lambda scores: np.asarray(calibration.probability(scores), dtype=np.float64),
            revision=revision,
        )
    try:
        contract = reranker.model.contract
    except ConfigError:  # a cascade, or a listwise model
        return Scale(name="relative", raw="relative", apply=_sigmoid)
    if not isinstance(ranker, PointwiseRanker) and not hasattr(ranker, "documents"):
        return Scale(name="relative", raw="relative", apply=_sigmoid)
    return _of_contract(contract)


def _of_contract(contract: Any) -> Scale:
    if not isinstance(contract, Mapping):
        return Scale(name="sigmoid", raw="logit", apply=_sigmoid)
    kind = contract.get("kind")
    if kind == "biencoder" and contract.get("similarity", "cosine") == "cosine":
        return Scale(name="cosine", raw="cosine", apply=_cosine)
    if kind in ("biencoder", "splade"):
        return Scale(name="bounded", raw=str(contract.get("similarity", "dot")), apply=_bounded)
    if contract.get("read") == "likelihood":
        return Scale(name="likelihood", raw="log-likelihood", apply=_likelihood)
    return Scale(name="sigmoid", raw="logit", apply=_sigmoid)
