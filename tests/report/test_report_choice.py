"""Which queries are shown, and the first paragraph."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_cases import small_part, small_report, small_study

from dear.report import Cost, Report, ReportPart
from dear.report.rows import chosen_queries, listed, summary

PART = small_part(60)


@given(st.integers(0, 80))
def test_as_many_as_asked_for_each_once_in_order(limit: int) -> None:
    chosen = chosen_queries(PART, limit)
    assert len(chosen) == min(limit, 60)
    assert chosen == [q for q in PART.study.query_ids if q in set(chosen)]


def test_the_most_hurt_and_most_helped_of_every_run_are_there_and_others_too() -> None:
    chosen = set(chosen_queries(PART, 20))
    hurt, helped = set(), set()
    for entry in PART.rerankers:
        found = PART.study.differences(entry)
        worst, best = min(found.values()), max(found.values())
        if worst < 0:
            hurt.add(entry.name)
            assert any(found[q] == worst for q in chosen)
        if best > 0:
            helped.add(entry.name)
            assert any(found[q] == best for q in chosen)
    assert {"helps", "hurts"} <= hurt
    assert "helps" in helped


def test_the_paragraph_says_how_much_how_surely_for_whom_and_at_what_cost() -> None:
    study = small_study()
    text = summary(Report(parts=[small_part()]))
    before, after = (study.entry(n).evaluation.means["nDCG@10"] for n in ("first", "helps"))
    assert text.startswith("helps, the best of the rerankers here, takes nDCG@10 from first’s")
    assert f"{before:.3f} to {after:.3f}" in text
    pair = study.against_first_stage(study.entry("helps"))
    assert pair is not None
    assert f"{pair.comparison.wins} ({pair.comparison.wins / 30:.0%}) get better" in text
    assert f"{pair.comparison.losses} " in text
    assert "400 ms a query" in text
    assert "One run was not compared" in text


def test_significance_is_told_by_collection() -> None:
    text = summary(small_report())
    assert "The gain is significant on animals and plants" in text


def test_a_run_that_hurts_is_not_said_to_gain() -> None:
    study = small_study()
    entries = tuple(e for e in study.entries if e.name in ("first", "hurts"))
    part = ReportPart(
        study=type(study)(
            **{
                **{f: getattr(study, f) for f in study.__slots__},
                "entries": entries,
                "refusals": (),
            }
        )
    )
    text = summary(Report(parts=[part]))
    assert text.startswith("hurts, the reranker here,")
    assert "0 (0%) get better and 30 (100%) get worse" in text


def test_lists_of_words() -> None:
    assert [listed(["a", "b", "c"][:n]) for n in range(4)] == ["", "a", "a and b", "a, b and c"]


def test_costs_are_read_from_notes() -> None:
    note = {
        "seconds": 9.0,
        "queries": 30,
        "parameters": 5,
        "cost": {
            "seconds": 10.0,
            "memory_mib": 700.0,
            "energy": {"joules": 33.0},
            "pointwise": {"pairs": 100, "seconds": 4.0, "tokens": 9000},
            "lists": {"windows": 4, "calls": 3, "prompt_tokens": 10, "completion_tokens": 2},
        },
    }
    cost = Cost.of(note)
    assert (cost.seconds, cost.pairs, cost.windows, cost.calls) == (10.0, 100, 4, 3)
    assert (cost.memory_mib, cost.joules, cost.tokens, cost.parameters) == (700, 33, 9000, 5)
    assert cost.ms_per_query == pytest.approx(1000 / 3)
    assert Cost.of({"cost": {"lists": note["cost"]["lists"]}}).tokens == 12  # type: ignore[index]
    assert not Cost.of({"queries": 3, "seconds": True, "pairs": "4"}).known
