"""Scores as probabilities: a map fitted on judged pairs, tested on others, kept with its model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit

from dear.artifacts import read_json, versions, write_json
from dear.digests import Inputs
from dear.errors import ContractMismatch, DataError
from dear.evaluate.reliability import Assessment, Floats, JudgedScores, assess
from dear.evaluate.score_maps import KINDS, Map, check_kind, read_map

CALIBRATION_FILE = "calibration.json"
FORMAT = "dear-calibration/1"
FOLDS = 5

_FREE = ("name", "dtype", "pooling", "padding_side")
"""What may differ between contracts without the scores being others, but for rounding."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """A map, whose scores it is for, and what it was fitted on.

    revision, contract: of the model; the map is for no other.
    inputs: what it was fitted on, by digests; incomplete where an earlier version fitted it.
    before: sigmoid of the scores.  after: the map; every query by one that was fitted without it.
    fitted_on: collection, split, run and its sha256, min_grade, unjudged, queries, …
    """

    kind: str
    map: Map
    revision: str
    contract: Mapping[str, Any]
    before: Assessment
    after: Assessment
    fitted_on: Mapping[str, Any]
    inputs: Inputs = field(default_factory=lambda: Inputs(complete=False))

    def probability(self, scores: ArrayLike) -> Floats:
        """float64, in the shape of `scores`: how likely each pair is relevant."""
        return self.map(np.asarray(scores, dtype=np.float64))

    def require(self, contract: Mapping[str, Any], *, model: str) -> None:
        """ContractMismatch unless this was fitted under this contract."""
        other = [
            key
            for key in sorted({*contract, *self.contract})
            if key not in _FREE and contract.get(key) != self.contract.get(key)
        ]
        if other:
            raise ContractMismatch(
                f"calibration: fitted under another contract than that of {model} "
                f"({', '.join(other)}); calibrate again"
            )

    def save(self, folder: Path) -> Path:
        """FOLDER/calibration.json; a checkpoint's revision does not change by it."""
        path = folder / CALIBRATION_FILE
        write_json(
            path,
            {
                "format": FORMAT,
                "kind": self.kind,
                "map": self.map.to_dict(),
                "revision": self.revision,
                "contract": dict(self.contract),
                "before": self.before.to_dict(),
                "after": self.after.to_dict(),
                "fitted_on": dict(self.fitted_on),
                **({"inputs": self.inputs.to_dict()} if self.inputs.complete else {}),
                "versions": versions(),
            },
        )
        return path

    @classmethod
    def load(cls, path: Path) -> Calibration:
        """From a file, or the one in a folder. DataError: absent or damaged."""
        path = path / CALIBRATION_FILE if path.is_dir() else path
        values = read_json(path)
        if values.get("format") != FORMAT:
            raise DataError.at(path, None, f"is not of format {FORMAT}")
        try:
            return cls(
                kind=str(values["kind"]),
                map=read_map(values["map"]),
                revision=str(values["revision"]),
                contract=dict(values["contract"]),
                before=Assessment(**values["before"]),
                after=Assessment(**values["after"]),
                fitted_on=dict(values["fitted_on"]),
                inputs=Inputs.from_dict(values.get("inputs")),
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            problem = f"the calibration is damaged: {' '.join(str(error).split())[:200]}"
            raise DataError.at(path, None, problem) from None


def calibrate(
    pairs: JudgedScores,
    kind: str,
    *,
    revision: str,
    contract: Mapping[str, Any],
    fitted_on: Mapping[str, Any] | None = None,
    inputs: Inputs | None = None,
) -> Calibration:
    """Fit a map to all pairs, and assess it by cross-validation over queries.

    DataError: pairs that are all alike, fewer than 2 queries, or scores that do not rise with
    relevance.
    """
    check_kind(kind)
    pairs.require_both()
    if pairs.queries < 2:
        raise DataError("one judged query is too few: a map is tested on queries left out")
    fitted = KINDS[kind](pairs.scores, pairs.relevant)
    return Calibration(
        kind=kind,
        map=fitted,
        revision=revision,
        contract=contract,
        before=assess(expit(pairs.scores), pairs.relevant),
        after=assess(cross_fitted(pairs, kind), pairs.relevant),
        fitted_on={**(fitted_on or {}), "queries": pairs.queries, "folds": FOLDS},
        inputs=Inputs(complete=False) if inputs is None else inputs,
    )


def cross_fitted(pairs: JudgedScores, kind: str, folds: int = FOLDS) -> Floats:
    """(n,) probabilities, those of every query by a map that was fitted without it."""
    _, number = np.unique(pairs.query, return_inverse=True)
    folds = min(folds, int(number.max()) + 1)
    out = np.empty(len(pairs))
    for fold in range(folds):
        mine = number % folds == fold
        if not pairs.relevant[~mine].any() or pairs.relevant[~mine].all():
            raise DataError("too few judged queries: without some of them all pairs are alike")
        out[mine] = KINDS[kind](pairs.scores[~mine], pairs.relevant[~mine])(pairs.scores[mine])
    return out
