"""Which of the measured systems to use: the best, or the cheapest that is about as good."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

MARGIN = 0.02
"""A cheaper system is about as good where its loss of nDCG@10 against the best, with 95 %
confidence, is below this."""

FEW_STEPS = 30
"""A student of fewer training steps has learnt little, and that is said."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recommendation:
    """What to use, and how the student compares with it.

    system: a name of the table.  best: the one with the highest score.  commands: that use it.
    difference, interval: of the recommended system against the best, 0 where it is the best; None
        where nothing is judged.
    student_difference, student_interval: of the student against the recommended system.
    student_steps: of its training; None where it is not known.
    """

    system: str
    best: str
    commands: tuple[str, ...]
    difference: float | None
    interval: tuple[float, float] | None
    student_difference: float | None
    student_interval: tuple[float, float] | None
    student_steps: int | None


class MeasuredRow(Protocol):
    """A row of the table."""

    @property
    def system(self) -> str: ...
    @property
    def score(self) -> float: ...
    @property
    def pairs_per_s(self) -> float | None: ...


Against = Callable[[str, str], tuple[float, tuple[float, float]]]
"""(difference of the first system's scores less the second's, its 95 % interval)"""


def recommend_judged(
    rows: Sequence[MeasuredRow],
    against: Against,
    commands: Mapping[str, tuple[str, ...]],
    *,
    student: str,
    student_steps: int | None,
) -> Recommendation:
    """By judgements: the cheapest system whose loss against the best is certainly below MARGIN."""
    best = max(rows, key=lambda row: row.score).system
    chosen = best
    for row in sorted(rows, key=_cost):
        if row.system == best or against(row.system, best)[1][0] > -MARGIN:
            chosen = row.system
            break
    difference, interval = (0.0, (0.0, 0.0)) if chosen == best else against(chosen, best)
    loss = None if student == chosen else against(student, chosen)
    return Recommendation(
        system=chosen,
        best=best,
        commands=commands[chosen],
        difference=difference,
        interval=interval,
        student_difference=None if loss is None else loss[0],
        student_interval=None if loss is None else loss[1],
        student_steps=student_steps,
    )


def recommend_by_agreement(
    rows: Sequence[MeasuredRow],
    commands: Mapping[str, tuple[str, ...]],
    *,
    student: str,
    student_steps: int | None,
) -> Recommendation:
    """Where nothing is judged: of all systems but the teacher, the one that agrees with it most,
    the cheaper of two that agree alike. rows: those systems."""
    best = max(rows, key=lambda row: (round(row.score, 3), -_cost(row)))
    own = next(row for row in rows if row.system == student)
    return Recommendation(
        system=best.system,
        best=best.system,
        commands=commands[best.system],
        difference=None,
        interval=None,
        student_difference=None if best.system == student else own.score - best.score,
        student_interval=None,
        student_steps=student_steps,
    )


def _cost(row: MeasuredRow) -> float:
    """Seconds for a passage; a first stage alone costs nothing more."""
    return 1 / row.pairs_per_s if row.pairs_per_s else 0.0
