"""Scores of one query on a scale of their own, so that those of several rankers can be added."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def z_scores(values: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Mean 0, standard deviation 1; all 0 where the values do not differ."""
    centred = np.asarray(values, dtype=np.float64) - np.mean(values, dtype=np.float64)
    deviation = centred.std()
    return centred / deviation if deviation > 1e-12 else np.zeros_like(centred)
