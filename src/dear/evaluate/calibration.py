"""Scores to probabilities of relevance: maps, tested on queries left out, kept with their model.

temperature  p = sigmoid(a s): one number; for models whose logit 0 means one half
platt        p = sigmoid(a s + b): temperature with a bias (Platt 1999); the one to begin with,
             because a ranking loss leaves the zero of the logits free
isotonic     any rising curve (pool adjacent violators); needs many pairs

None falls anywhere, so no ranking changes: rank by score, read the probability. Where isotonic
gives several scores the same probability, the score still tells them apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from dear.artifacts import read_json, versions, write_json
from dear.digests import Inputs
from dear.errors import ConfigError, ContractMismatch, DataError, nearest
from dear.evaluate.reliability import Assessment, Floats, JudgedScores, assess

STEPS = 100


def expit(x: ArrayLike) -> Floats:
    """1 / (1 + exp(-x)), without the fifth of a second that importing scipy.special takes."""
    return np.exp(-np.logaddexp(0.0, -np.asarray(x, dtype=np.float64)))


_NO_RISE = "the scores do not rise with relevance; no map to probabilities fits"


@dataclass(frozen=True, slots=True)
class Logistic:
    """p = sigmoid(slope * score + bias), slope > 0."""

    slope: float
    bias: float = 0.0

    def __call__(self, scores: Floats) -> Floats:
        return expit(self.slope * scores + self.bias)

    def to_dict(self) -> dict[str, Any]:
        return {"slope": self.slope, "bias": self.bias}


@dataclass(frozen=True, slots=True)
class Isotonic:
    """Straight lines between knots, flat outside. scores rise, probabilities do not fall."""

    scores: tuple[float, ...]
    probabilities: tuple[float, ...]

    def __call__(self, scores: Floats) -> Floats:
        found = np.interp(scores, self.scores, self.probabilities)
        return np.asarray(found, dtype=np.float64)

    def to_dict(self) -> dict[str, Any]:
        return {"scores": list(self.scores), "probabilities": list(self.probabilities)}


Map = Logistic | Isotonic


def fit_temperature(scores: Floats, relevant: ArrayLike) -> Logistic:
    """The slope of greatest likelihood, without a bias."""
    return Logistic(*_logistic(np.asarray(scores)[:, None], relevant))


def fit_platt(scores: Floats, relevant: ArrayLike) -> Logistic:
    """Slope and bias of greatest likelihood, with Platt's targets."""
    design = np.column_stack([scores, np.ones(len(scores))])
    return Logistic(*_logistic(design, relevant))


def fit_isotonic(scores: Floats, relevant: ArrayLike) -> Isotonic:
    """The rising curve of least squared error.

    n pairs cannot vouch for more than 1 - 1 / (n + 2), nor for less than 1 / (n + 2): the curve
    is cut there, so that no pair is ever certain.
    """
    places, owner = np.unique(scores, return_inverse=True)
    counts = np.bincount(owner).astype(np.float64)
    means = np.bincount(owner, weights=np.asarray(relevant, dtype=np.float64)) / counts
    fitted = pool_adjacent_violators(means, counts)
    # the ends of each level are enough: between them it is flat
    end = np.ones(len(fitted), dtype=np.bool_)
    end[1:-1] = (fitted[1:-1] != fitted[:-2]) | (fitted[1:-1] != fitted[2:])
    least = 1 / (len(owner) + 2)
    kept = np.clip(fitted[end], least, 1 - least)
    if kept[0] == kept[-1]:
        raise DataError(_NO_RISE)
    return Isotonic(tuple(places[end].tolist()), tuple(kept.tolist()))


KINDS: dict[str, Callable[[Floats, ArrayLike], Map]] = {
    "temperature": fit_temperature,
    "platt": fit_platt,
    "isotonic": fit_isotonic,
}


def check_kind(kind: str) -> None:
    """ConfigError: no such map."""
    if kind not in KINDS:
        raise ConfigError(f"no map to probabilities {kind!r}{nearest(kind, KINDS)}")


def pool_adjacent_violators(values: ArrayLike, weights: ArrayLike) -> Floats:
    """The sequence that never falls and is nearest to `values` in weighted least squares."""
    means: list[float] = []
    masses: list[float] = []
    sizes: list[int] = []
    for value, weight in zip(
        np.asarray(values).tolist(), np.asarray(weights).tolist(), strict=True
    ):
        mean, mass, size = value, weight, 1
        while means and means[-1] >= mean:
            before = masses.pop()
            mean = (means.pop() * before + mean * mass) / (before + mass)
            mass, size = before + mass, size + sizes.pop()
        means.append(mean)
        masses.append(mass)
        sizes.append(size)
    return np.repeat(np.array(means, dtype=np.float64), sizes)


def _logistic(design: Floats, relevant: ArrayLike) -> list[float]:
    """Weights (d,) of logistic regression by Newton's method, the first of them above 0.

    Targets are Platt's, (r + 1) / (r + 2) for the r relevant pairs and 1 / (n - r + 2) for the
    others, which keeps the weights finite where a threshold parts the two.
    """
    y = np.asarray(relevant, dtype=np.bool_)
    yes, no = int(y.sum()), int((~y).sum())
    target = np.where(y, (yes + 1) / (yes + 2), 1 / (no + 2))
    # columns of like size: the steps are the same, their rounding is not
    scale = np.abs(design).max(axis=0)
    scale[scale == 0] = 1.0
    x = design / scale

    def loss(weights: Floats) -> float:
        z = x @ weights
        return float((np.logaddexp(0, z) - target * z).sum())

    weights = np.zeros(x.shape[1])
    now = loss(weights)
    for _ in range(STEPS):
        p = expit(x @ weights)
        gradient = x.T @ (p - target)
        curvature = (x * (p * (1 - p))[:, None]).T @ x
        step = np.linalg.lstsq(curvature, gradient, rcond=None)[0]
        share = 1.0
        while (following := loss(weights - share * step)) > now and share > 1e-9:
            share /= 2
        if following > now:
            break
        weights, before, now = weights - share * step, now, following
        if before - now <= 1e-13 * abs(now):
            break
    found = weights / scale
    if not found[0] > 0:
        raise DataError(_NO_RISE)
    return [float(w) for w in found]


def _read_map(values: Mapping[str, Any]) -> Map:
    """What `to_dict` gave.

    KeyError and TypeError for other keys and types, ValueError for what could reverse a ranking.
    """
    if values.keys() == {"slope", "bias"}:
        slope, bias = float(values["slope"]), float(values["bias"])
        if not (slope > 0 and np.isfinite([slope, bias]).all()):
            raise ValueError(f"slope {slope}, bias {bias}")
        return Logistic(slope, bias)
    scores, probabilities = _floats(values["scores"]), _floats(values["probabilities"])
    if not scores or len(scores) != len(probabilities):
        raise ValueError(f"{len(scores)} scores, {len(probabilities)} probabilities")
    rising = (np.diff(scores) > 0).all() and (np.diff(probabilities) >= 0).all()
    if not rising or not 0 <= probabilities[0] <= probabilities[-1] <= 1:
        raise ValueError("the curve falls, or leaves 0 to 1")
    return Isotonic(scores, probabilities)


def _floats(values: Sequence[Any]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


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

    @property
    def described(self) -> str:
        """What it was fitted on, as far as its file says: collection, split and first stage."""
        on = self.fitted_on
        parts = [on.get("collection"), on.get("split") and f"split {on['split']}"]
        parts += [on.get("run") and f"run {on['run']}"]
        return ", ".join(str(part) for part in parts if part) or "unnamed data"

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
                map=_read_map(values["map"]),
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
