"""Which of a model's heads tell relevant passages: a weight for each, fitted on a teacher's scores.

Kept as `dear_heads.json` beside a model or an adapter.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import ConfigDict, TypeAdapter, ValidationError

from dear.artifacts import read_json, write_json
from dear.errors import ConfigError, DataError, excerpt

HEADS_FILE = "dear_heads.json"

PEFT_TYPE = "DEAR_HEADS"
"""What `adapter_config.json` says of a folder that holds weights of heads and no others."""

STRENGTH = 1000.0
"""Of the ridge penalty, where a hundred lists of eight are fitted; features have variance 1."""


@dataclass(frozen=True)
class HeadWeights:
    """weights: by layer, then by head.  ConfigError: rows differ in length, or not all is finite.

    A passage's score is their product with the attention that each head pays it.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")
    weights: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        if len({len(row) for row in self.weights}) != 1 or not self.shape[1]:
            raise ConfigError("weights of heads: a row for each layer, all of one length")
        if not all(math.isfinite(weight) for row in self.weights for weight in row):
            raise ConfigError("weights of heads must be finite")

    @property
    def shape(self) -> tuple[int, int]:
        """(layers, heads)."""
        return len(self.weights), len(self.weights[0])

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(repr(self.weights).encode()).hexdigest()[:16]

    def save(self, folder: Path) -> None:
        write_json(folder / HEADS_FILE, asdict(self))

    @classmethod
    def load(cls, folder: Path) -> HeadWeights:
        """DataError: the file is missing, or is none."""
        path = folder / HEADS_FILE
        try:
            return TypeAdapter(cls).validate_python(read_json(path))
        except (ValidationError, ConfigError) as error:
            raise DataError.at(path, None, excerpt(str(error))) from None


def fit_heads(
    paid: Sequence[NDArray[np.float32]],
    scores: Sequence[ArrayLike],
    *,
    strength: float = STRENGTH,
) -> HeadWeights:
    """Ridge regression of a teacher's scores, standardised within each list.

    paid: (N, layers, heads) for each list, as `InContext.paid` gives it.  scores: (N,) for each.
    ConfigError: nothing to learn from, no positive strength.
    """
    if not 0 < strength < math.inf:
        raise ConfigError("strength must be above 0")
    targets = [np.asarray(given, dtype=np.float64) for given in scores]
    kept = [i for i, given in enumerate(targets) if given.std() > 0]
    if not kept:
        raise ConfigError("no list whose scores differ: there is nothing to fit heads on")
    wanted = np.concatenate([(targets[i] - targets[i].mean()) / targets[i].std() for i in kept])
    lists = [np.asarray(paid[i], dtype=np.float64) for i in kept]
    shape = lists[0].shape[1:]
    rows = np.concatenate([(one - one.mean(0)).reshape(len(one), -1) for one in lists])
    scale = np.maximum(rows.std(0), 1e-12)
    rows /= scale
    gram = rows.T @ rows + strength * np.eye(rows.shape[1])
    found = np.linalg.solve(gram, rows.T @ wanted) / scale
    return HeadWeights(tuple(tuple(row) for row in found.reshape(shape).tolist()))
