"""Scores of a checkpoint and of its export on the same pairs, and how far they agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau

from dear.bench.turns import quality
from dear.records import Candidates, Judgements


@dataclass(frozen=True, kw_only=True, slots=True)
class PairedScores:
    """Scores of the same pairs, float32 (n,), those of each query behind each other.

    alike: bool (n,), which pairs both programs read as the same tokens.
    """

    candidates: Sequence[Candidates]
    judgements: Judgements | None
    original: NDArray[np.float32]
    export: NDArray[np.float32]
    alike: NDArray[np.bool_]

    def figures(self) -> dict[str, Any]:
        """Those of a Certificate."""
        off = np.abs(self.original - self.export) / (1 + np.abs(self.original))
        found: dict[str, Any] = {
            "queries": len(self.candidates),
            "pairs": len(off),
            "alike": int(self.alike.sum()),
            "largest_difference": float(off[self.alike].max(initial=0.0)),
            "tau": self._tau(self.alike),
            "tau_all": self._tau(np.ones_like(self.alike)),
        }
        for name, scores in (("ndcg", self.original), ("export_ndcg", self.export)):
            judged = self.judgements
            found[name] = None if judged is None else quality(scores, self.candidates, judged)
        return found

    def _tau(self, kept: NDArray[np.bool_]) -> float:
        """Mean over the queries whose kept scores the checkpoint tells apart; 1 where there are
        none."""
        ends = np.cumsum([len(c.passages) for c in self.candidates])[:-1]
        found = []
        for mine, theirs, use in zip(
            *(np.split(one, ends) for one in (self.original, self.export, kept)), strict=True
        ):
            if len(np.unique(mine[use])) > 1:
                tau = kendalltau(mine[use], theirs[use]).statistic
                # one score for all is no order
                found.append(0.0 if np.isnan(tau) else float(tau))
        return float(np.mean(found)) if found else 1.0
