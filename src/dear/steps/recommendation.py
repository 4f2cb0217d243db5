"""Which of the measured systems to use: the best, or the cheapest that is about as good.

By judgements where there are some. Where nothing is judged, only agreement with the teacher is
known: a system may then replace the teacher where it costs less, and is never said to be better.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

MARGIN = 0.02
"""A cheaper system is about as good where its loss of nDCG@10 against the best, with 95 %
confidence, is below this."""

AGREES = 0.02
"""Of two systems whose agreement with the teacher differs by less, the cheaper is taken."""

AS_CHEAP = 1.25
"""A system costs about as much as another one where it takes at most so many times as long."""

FEW_STEPS = 30
"""A student of fewer training steps has learnt little, and that is said."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recommendation:
    """What to use, and how the student compares with it.

    system: a row of the table.  best: the row with the highest score.  commands: that use it.
    difference, interval: of the recommended system against the best, 0 where it is the best; None
        where nothing is judged.
    student: the student's better row, alone or with the first stage's score; None where none was
        trained.
    student_difference, student_interval: of it against the recommended system; None where it is
        the recommended one.
    student_times: how many times as fast it ranks as the recommended system; None likewise, and
        where a first stage is recommended.
    student_steps: of its training; None where it is not known.
    """

    system: str
    best: str
    commands: tuple[str, ...]
    difference: float | None
    interval: tuple[float, float] | None
    student: str | None
    student_difference: float | None
    student_interval: tuple[float, float] | None
    student_times: float | None
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
    students: Sequence[str],
    student_steps: int | None,
) -> Recommendation:
    """By judgements: the cheapest system whose loss against the best is certainly below MARGIN.

    students: the student's rows.
    """
    best = max(rows, key=lambda row: row.score)
    chosen = best
    for row in sorted(rows, key=_cost):
        if row is best or against(row.system, best.system)[1][0] > -MARGIN:
            chosen = row
            break
    is_best = chosen is best
    difference, interval = (0.0, (0.0, 0.0)) if is_best else against(chosen.system, best.system)
    student = _better(rows, students)
    loss = None
    if student is not None and chosen.system not in students:
        loss = against(student.system, chosen.system)
    return Recommendation(
        system=chosen.system,
        best=best.system,
        commands=commands[chosen.system],
        difference=difference,
        interval=interval,
        student=None if student is None else student.system,
        student_difference=None if loss is None else loss[0],
        student_interval=None if loss is None else loss[1],
        student_times=None if loss is None else _times(student, chosen),
        student_steps=student_steps,
    )


def recommend_by_agreement(
    rows: Sequence[MeasuredRow],
    commands: Mapping[str, tuple[str, ...]],
    *,
    teacher: str,
    students: Sequence[str],
    student_steps: int | None,
) -> Recommendation:
    """Where nothing is judged: the system that agrees most with the teacher, the cheapest of those
    that agree alike; the teacher itself where that costs no less.

    teacher: its row.  students: the student's rows.
    """
    others = [row for row in rows if row.system != teacher]
    most = max(row.score for row in others)
    chosen = min((row for row in others if row.score > most - AGREES), key=_cost)
    own = next(row for row in rows if row.system == teacher)
    if _cost(own) <= AS_CHEAP * _cost(chosen):
        chosen = own
    student = _better(rows, students)
    apart = None if chosen.system in students else student
    return Recommendation(
        system=chosen.system,
        best=teacher,
        commands=commands[chosen.system],
        difference=None,
        interval=None,
        student=None if student is None else student.system,
        student_difference=None if apart is None else apart.score - chosen.score,
        student_interval=None,
        student_times=None if apart is None else _times(apart, chosen),
        student_steps=student_steps,
    )


def _better(rows: Sequence[MeasuredRow], students: Sequence[str]) -> MeasuredRow | None:
    """None where no student was trained."""
    mine = (row for row in rows if row.system in students)
    return max(mine, key=lambda row: row.score, default=None)


def _times(student: MeasuredRow | None, chosen: MeasuredRow) -> float | None:
    """How many times as fast the student is."""
    if student is None:
        return None
    return _cost(chosen) / _cost(student) if _cost(chosen) and _cost(student) else None


def _cost(row: MeasuredRow) -> float:
    """Seconds for a passage; a first stage alone costs nothing more."""
    return 1 / row.pairs_per_s if row.pairs_per_s else 0.0
