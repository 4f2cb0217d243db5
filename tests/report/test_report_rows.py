"""What the tables of a report say: marks by the corrected p, and means over every collection."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_cases import judgements, run, small_study

from dear.evaluate.study import RunSource, Study, study
from dear.report import (
    Report,
    ReportPart,
    write_latex,
    write_markdown,
    write_report,
)
from dear.report.figures import collection_figures
from dear.report.rows import ALPHA, headline, p_value, summary, verdict

NAMES = ("first", "helps", "hurts", "other <b>")


def all_gain(rerankers: int, queries: int = 6) -> Study:
    """So many rerankers, each of which helps every query: p is 2 / 2**queries for each alone."""
    sources = [RunSource(name="first", run=run(queries, 12, flaw=10**9))]
    better = run(queries, 0, flaw=10**9)
    sources += [RunSource(name=f"r{i}", run=better, first_stage="first") for i in range(rerankers)]
    return study("animals", "test", judgements(queries), sources)


@pytest.mark.parametrize(
    ("rerankers", "queries", "expected"),
    [(1, 5, "unsure"), (1, 6, "better"), (3, 6, "unsure"), (3, 9, "better")],
)
def test_marks_are_by_the_p_that_is_corrected(rerankers: int, queries: int, expected: str) -> None:
    made = all_gain(rerankers, queries)
    for entry in made.entries[1:]:
        pair = made.against_first_stage(entry)
        assert pair is not None
        assert pair.comparison.p_randomisation == pytest.approx(2 / 2**queries)
        assert (pair.holm_randomisation < ALPHA) == (expected == "better")
        assert verdict(made, entry) == (expected, "")
    figures = "".join(f.svg for f in collection_figures(ReportPart(study=made), "f"))
    assert figures.count(", not significant") == (rerankers if expected == "unsure" else 0)


def test_tables_and_words_hold_the_corrected_p(tmp_path: Path) -> None:
    sources = [RunSource(name="first", run=run(6, 5, flaw=10**9))]
    for name, flaw in (("r6", 6), ("r3", 3), ("r2", 2)):
        sources.append(RunSource(name=name, run=run(6, 0, flaw=flaw), first_stage="first"))
    made = study("animals", "test", judgements(6), sources)
    report = Report(parts=[ReportPart(study=made)])
    texts = {}
    for write in (write_report, write_markdown, write_latex):
        write(tmp_path / "r", report)
        texts[write] = (tmp_path / "r").read_text(encoding="utf-8")
    html, markdown, latex = texts.values()
    differ = 0
    for pair in made.comparisons:
        a, b, c = pair.a, pair.b, pair.comparison
        expected = [p_value(pair.holm_randomisation), p_value(pair.holm_t)]
        plain = [p_value(c.p_randomisation), p_value(c.p_t)]
        differ += sum(x != y for x, y in zip(expected, plain, strict=True))
        (row,) = re.findall(rf"<th[^>]*>{a} − {b}</th>(.*?)</tr>", html)
        assert re.findall(r"<td[^>]*>(.*?)</td>", row)[2:4] == expected
        (row,) = re.findall(rf"^\| {a} − {b} \|(.*)\|$", markdown, re.MULTILINE)
        assert [cell.strip() for cell in row.split("|")][2:4] == expected
        (row,) = re.findall(rf"^ *{a} \$-\$ {b} &(.*) \\\\$", latex, re.MULTILINE)
        assert [cell.strip() for cell in row.split("&")][2:4] == expected
    assert differ > 4
    assert "intervals are not corrected" in html
    assert "intervals are not corrected" in markdown
    assert "intervals not." in latex
    best = max(report.parts[0].rerankers, key=lambda e: e.evaluation.means["nDCG@10"], default=None)
    assert best is not None
    pair = made.against_first_stage(best)
    assert pair is not None
    assert f", not corrected; corrected p = {pair.holm_randomisation:.4f})" in summary(report)


@given(st.lists(st.sets(st.sampled_from(NAMES[1:])), min_size=1, max_size=3))
def test_a_mean_is_that_of_a_system_with_a_run_on_every_collection(
    lacking: list[set[str]],
) -> None:
    parts = []
    for number, names in enumerate(lacking):
        whole = small_study(7 + number, f"c{number}")
        kept = tuple(e for e in whole.entries if e.name not in names)
        parts.append(ReportPart(study=replace(whole, entries=kept)))
    found = headline(Report(parts=parts))
    assert [c for c, _ in found.columns] == [f"c{number}" for number in range(len(parts))]
    means = {}
    for row in found.rows:
        assert [cell is None for cell in row.cells] == [row.name in names for names in lacking]
        values = [cell.value for cell in row.cells if cell is not None]
        if len(parts) > 1 and len(values) == len(parts):
            means[row.name] = row.mean
            assert row.mean == pytest.approx(sum(values) / len(values))
        else:
            assert row.mean is None
    best = max(means.values(), default=None)  # type: ignore[type-var]
    for row in found.rows:
        assert row.mean_best == (best is not None and row.mean == best)
    for place in range(len(parts)):
        cells = [row.cells[place] for row in found.rows]
        top = max(cell.value for cell in cells if cell is not None)
        assert [c.best for c in cells if c is not None] == [
            c.value == top for c in cells if c is not None
        ]
