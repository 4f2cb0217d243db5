"""Which system a distillation recommends."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from dear.steps.recommendation import MARGIN, recommend_by_agreement, recommend_judged


@dataclass(frozen=True)
class Row:
    system: str
    score: float
    pairs_per_s: float | None = None


FIRST, READING, TEACHER, STUDENT = (
    Row("first stage", 0.40),
    Row("zero-shot", 0.52, 200.0),
    Row("teacher", 0.54, 50.0),
    Row("student", 0.53, 400.0),
)
ROWS = [FIRST, READING, TEACHER, STUDENT]
COMMANDS = {row.system: (f"use {row.system}",) for row in ROWS}


def judged(rows: list[Row], spread: float) -> tuple[str, float | None, float | None]:
    """(recommended, its difference from the best, the student's from it); intervals are
    differences plus and minus `spread`."""
    scores = {row.system: row.score for row in rows}

    def against(a: str, b: str) -> tuple[float, tuple[float, float]]:
        difference = scores[a] - scores[b]
        return difference, (difference - spread, difference + spread)

    found = recommend_judged(rows, against, COMMANDS, students=("student",), student_steps=7)
    assert found.commands == COMMANDS[found.system]
    assert found.student_steps == 7
    return found.system, found.difference, found.student_difference


def test_the_best_is_taken_where_nothing_cheaper_is_about_as_good() -> None:
    system, difference, student = judged(ROWS, spread=MARGIN)
    assert (system, difference) == ("teacher", 0.0)
    assert student == pytest.approx(-0.01)


def test_a_cheaper_system_is_taken_where_its_loss_is_certainly_small() -> None:
    system, difference, student = judged(ROWS, spread=MARGIN / 4)
    assert system == "student"
    assert difference == pytest.approx(-0.01)
    assert student is None


def test_a_first_stage_that_nothing_beats_is_said_to_be_the_best() -> None:
    rows = [Row("first stage", 0.6), *ROWS[1:]]
    assert judged(rows, spread=0.001)[0] == "first stage"


def test_the_cheapest_of_those_that_are_about_as_good() -> None:
    rows = [FIRST, Row("zero-shot", 0.539, 300.0), TEACHER, Row("student", 0.5399, 200.0)]
    assert judged(rows, spread=0.001)[0] == "zero-shot"


@pytest.mark.parametrize(
    ("first", "reading", "student", "expected"),
    [
        (0.5, 0.6, 0.7, "student"),
        (0.7, 0.5, 0.5, "first stage"),
        (0.6, 0.6, 0.61, "first stage"),
        (0.4, 0.9, 0.7, "teacher"),  # as cheap as what agrees with it most
        (0.4, 0.7, 0.69, "student"),  # cheaper, and as good
    ],
)
def test_without_judgements_agreement_decides_and_cost_between_equals(
    first: float, reading: float, student: float, expected: str
) -> None:
    rows = [
        Row("first stage", first),
        Row("zero-shot", reading, 100.0),
        Row("teacher", 1.0, 100.0),
        Row("student", student, 400.0),
    ]
    found = recommend_by_agreement(
        rows, COMMANDS, teacher="teacher", students=("student",), student_steps=None
    )
    assert found.system == expected
    assert found.interval is None
    if expected == "student":
        assert found.student_difference is found.student_times is None
    else:
        scores = {row.system: row.score for row in rows}
        assert found.student_difference == pytest.approx(student - scores[expected])
        assert found.student_times == (4.0 if expected == "teacher" else None)


def test_a_teacher_that_costs_more_is_not_recommended_by_agreement() -> None:
    rows = [Row("first stage", 0.3), Row("teacher", 1.0, 20.0), Row("student", 0.6, 400.0)]
    found = recommend_by_agreement(
        rows, COMMANDS, teacher="teacher", students=("student",), student_steps=None
    )
    assert (found.system, found.best) == ("student", "teacher")


def test_the_better_of_the_students_rows_is_compared() -> None:
    rows = [*ROWS, Row("fused", 0.535, 400.0)]
    scores = {row.system: row.score for row in rows}

    def against(a: str, b: str) -> tuple[float, tuple[float, float]]:
        return scores[a] - scores[b], (-1.0, 1.0)

    found = recommend_judged(
        rows, against, COMMANDS, students=("student", "fused"), student_steps=None
    )
    assert (found.system, found.student, found.student_times) == ("teacher", "fused", 8.0)
