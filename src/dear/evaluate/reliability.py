"""Scores with judgements, and how far probabilities can be believed.

Every judged pair weighs the same. numpy and scipy alone.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dear.errors import ConfigError, DataError, nearest
from dear.records import Judgements, Run

Floats: TypeAlias = NDArray[np.float64]
Unjudged: TypeAlias = Literal["leave", "irrelevant"]
Bins: TypeAlias = Literal["width", "mass"]

BINS = 15
SMALLEST = 1e-12
"""Probabilities are kept so far from 0 and 1 where a logarithm is taken."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class JudgedScores:
    """Scores of pairs that are relevant or not.

    scores: (n,) float64.  relevant: (n,) bool.  query: (n,) int64, 0 for the first query, …
    """

    scores: Floats
    relevant: NDArray[np.bool_]
    query: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def queries(self) -> int:
        return len(np.unique(self.query))

    def require_both(self) -> None:
        """DataError unless some pairs are relevant and others are not."""
        count = int(self.relevant.sum())
        if 0 < count < len(self):
            return
        if not len(self):
            raise DataError("no pair of the run is judged")
        if not count:
            raise DataError(f"none of the {len(self):,} judged pairs is relevant")
        raise DataError(
            f"all {len(self):,} judged pairs are relevant; where the judgements name nothing else, "
            "let what nobody judged count as irrelevant (--unjudged irrelevant)"
        )


def judged_scores(
    run: Run, judgements: Judgements, *, min_grade: int = 1, unjudged: Unjudged = "leave"
) -> JudgedScores:
    """The pairs of a run's judged queries.

    min_grade: the lowest grade that counts as relevant.
    unjudged: "leave" takes judged pairs only; "irrelevant" takes what nobody judged, too, as not
        relevant: for judgements that name relevant passages alone, and are complete.
    """
    if unjudged not in get_args(Unjudged):
        raise ConfigError(f"unjudged: {unjudged!r}{nearest(unjudged, get_args(Unjudged))}")
    if min_grade < 1:
        raise ConfigError(f"min_grade is {min_grade}: grades below 1 are never relevant")
    scores: list[float] = []
    relevant: list[bool] = []
    query: list[int] = []
    for place, (query_id, ranking) in enumerate((q, r) for q, r in run.items() if q in judgements):
        grades = judgements[query_id]
        for passage_id, score in zip(ranking.passage_ids, ranking.scores, strict=True):
            grade = grades.get(passage_id)
            if grade is None and unjudged == "leave":
                continue
            scores.append(score)
            relevant.append(grade is not None and grade >= min_grade)
            query.append(place)
    return JudgedScores(
        scores=np.array(scores, dtype=np.float64),
        relevant=np.array(relevant, dtype=np.bool_),
        query=np.array(query, dtype=np.int64),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Bin:
    """Pairs whose probabilities lie close together.

    low, high: the ends of the bin.  probability: the mean of those in it.  relevant: the share
    of them that is.
    """

    low: float
    high: float
    count: int
    probability: float
    relevant: float


def reliability(
    probabilities: ArrayLike, relevant: ArrayLike, *, bins: int = BINS, by: Bins = "width"
) -> list[Bin]:
    """The reliability curve: bins that are not empty, the lowest first.

    by: "width" divides 0 to 1 into equal parts, [low, high) but for the last, which holds 1;
        "mass" makes bins of equally many pairs. Equal probabilities are never parted: bins by
        mass may be fewer and unequal where there are ties.
    """
    p, y = _checked(probabilities, relevant)
    if bins < 1:
        raise ConfigError(f"bins is {bins}; there is one or more")
    if by == "width":
        edges = np.arange(bins + 1) / bins  # 0.6 itself, not what linspace rounds it to
        owner = np.minimum(np.searchsorted(edges, p, side="right") - 1, bins - 1)
    elif by == "mass":
        # a value's place is that of its first equal, so that equals stay together
        first = np.searchsorted(np.sort(p), p, side="left")
        owner = first * bins // len(p)
    else:
        raise ConfigError(f"by: {by!r}{nearest(by, get_args(Bins))}")
    found = []
    for one in np.unique(owner):
        mine = owner == one
        held = p[mine]
        ends = (edges[one], edges[one + 1]) if by == "width" else (held.min(), held.max())
        found.append(
            Bin(
                low=float(ends[0]),
                high=float(ends[1]),
                count=int(mine.sum()),
                probability=float(held.mean()),
                relevant=float(y[mine].mean()),
            )
        )
    return found


def expected_error(curve: list[Bin]) -> float:
    """Expected calibration error: the mean distance of a pair's bin from the diagonal."""
    total = sum(b.count for b in curve)
    return sum(b.count * abs(b.probability - b.relevant) for b in curve) / total


def largest_error(curve: list[Bin]) -> float:
    """Maximum calibration error: the distance of the bin that lies furthest off, however few
    pairs it holds."""
    return max(abs(b.probability - b.relevant) for b in curve)


@dataclass(frozen=True, kw_only=True, slots=True)
class Assessment:
    """What probabilities are worth; lower is better, and 0 is perfect.

    ece, mce: expected and maximum calibration error over bins of equal width.
    ece_mass: the expected one over bins of equal mass, which few pairs cannot sway.
    brier: mean squared error.  nll: mean negative log likelihood, in nats.
    """

    pairs: int
    relevant: int
    ece: float
    mce: float
    ece_mass: float
    brier: float
    nll: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def assess(probabilities: ArrayLike, relevant: ArrayLike, *, bins: int = BINS) -> Assessment:
    """Every measure at once. DataError: no pairs, or numbers that are no probabilities."""
    p, y = _checked(probabilities, relevant)
    curve = reliability(p, y, bins=bins)
    inside = np.clip(p, SMALLEST, 1 - SMALLEST)
    return Assessment(
        pairs=len(p),
        relevant=int(y.sum()),
        ece=expected_error(curve),
        mce=largest_error(curve),
        ece_mass=expected_error(reliability(p, y, bins=bins, by="mass")),
        brier=float(np.square(p - y).mean()),
        nll=float(-np.where(y, np.log(inside), np.log1p(-inside)).mean()),
    )


def _checked(probabilities: ArrayLike, relevant: ArrayLike) -> tuple[Floats, NDArray[np.bool_]]:
    p = np.asarray(probabilities, dtype=np.float64)
    y = np.asarray(relevant, dtype=np.bool_)
    if p.shape != y.shape or p.ndim != 1:
        raise DataError(f"{p.shape} probabilities for {y.shape} judgements")
    if not len(p):
        raise DataError("no pair is judged: there is nothing to assess")
    if not ((p >= 0) & (p <= 1)).all():
        raise DataError("a probability lies outside 0 to 1")
    return p, y
