"""What a check found: lines with a value, a limit and a verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias

from dear.evaluate.compare import Comparison

Verdict: TypeAlias = Literal["holds", "sensitive", "fails"]

VERDICTS: tuple[Verdict, ...] = ("holds", "sensitive", "fails")
"""From good to bad."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limit:
    """A value up to `holds` holds, up to `sensitive` is sensitive, above it fails."""

    says: str
    holds: float
    sensitive: float

    def verdict(self, value: float) -> Verdict:
        if value <= self.holds:
            return "holds"
        return "sensitive" if value <= self.sensitive else "fails"


LIMITS: Mapping[str, Limit] = {
    "score change": Limit(
        says="largest change of a score, as a share of the scores' range",
        holds=1e-5,
        sensitive=0.01,
    ),
    "pairs turned": Limit(
        says="share of passage pairs whose order changes, (1 - Kendall's tau) / 2",
        holds=0.05,
        sensitive=0.15,
    ),
    "nDCG lost": Limit(says="mean nDCG@10 lost", holds=0.01, sensitive=0.05),
    "nDCG spread": Limit(
        says="best less worst mean nDCG@10 over the orders", holds=0.01, sensitive=0.05
    ),
    "reached the top": Limit(
        says="share of passages from below that enter the top", holds=0.05, sensitive=0.25
    ),
    "places apart": Limit(
        says="mean places between a passage and its near-duplicate", holds=1.0, sensitive=3.0
    ),
    "places fallen": Limit(says="mean places that the passage falls", holds=1.0, sensitive=3.0),
    "in the top": Limit(
        says="share of queries with the passage in the top", holds=0.05, sensitive=0.25
    ),
    "crashes": Limit(says="rankings that could not be made", holds=0.0, sensitive=0.0),
}
"""What verdicts are given by. They are conventions: each line's value stands beside its own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One thing that was tried.

    value: what the verdict is by, in the unit of `LIMITS[limit]`; None where nothing was ranked.
    limit: None where there is no verdict: a control.  count: queries that it is a mean over.
    numbers: whatever else was measured.  comparison: nDCG@10 of the changed ranking (a) against
    that of the unchanged one (b), where relevance is known.  error: why nothing was ranked.
    """

    check: str
    name: str
    count: int
    value: float | None = None
    limit: str | None = None
    numbers: Mapping[str, float] = field(default_factory=dict)
    comparison: Comparison | None = None
    error: str = ""

    @property
    def verdict(self) -> Verdict | None:
        if self.error:
            return "fails"
        if self.limit is None or self.value is None:
            return None
        return LIMITS[self.limit].verdict(self.value)

    def to_dict(self) -> dict[str, Any]:
        return {
            "check": self.check,
            "name": self.name,
            "verdict": self.verdict,
            "by": self.limit,
            "value": self.value,
            "queries": self.count,
            "numbers": dict(self.numbers),
            "comparison": None if self.comparison is None else asdict(self.comparison),
            "error": self.error or None,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class RobustnessReport:
    """What `check` found.

    pointwise: whether scores were compared, or the order alone.  top: places that are "the top".
    ndcg: mean nDCG@10 of the unchanged rankings; None where no query is judged.
    lines: by check, in the order of CHECKS.  notes: what was left out, and why.
    """

    pointwise: bool
    queries: int
    passages: int
    judged: int
    top: int
    seed: int
    ndcg: float | None
    lines: tuple[Line, ...]
    notes: tuple[str, ...] = ()

    def verdict(self, check: str | None = None) -> Verdict | None:
        """The worst of a check's lines, or of all; None where none has a verdict."""
        found = [
            line.verdict
            for line in self.lines
            if line.verdict is not None and check in (None, line.check)
        ]
        return worst(found)

    @property
    def checks(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(line.check for line in self.lines))

    def to_dict(self) -> dict[str, Any]:
        """For a JSON file."""
        return {
            "pointwise": self.pointwise,
            "queries": self.queries,
            "passages": self.passages,
            "judged_queries": self.judged,
            "top": self.top,
            "seed": self.seed,
            "ndcg": self.ndcg,
            "verdict": self.verdict(),
            "checks": {check: self.verdict(check) for check in self.checks},
            "lines": [line.to_dict() for line in self.lines],
            "limits": {name: asdict(limit) for name, limit in LIMITS.items()},
            "notes": list(self.notes),
        }


def worst(verdicts: Sequence[Verdict]) -> Verdict | None:
    return max(verdicts, key=VERDICTS.index, default=None)
