"""A report over real runs: the numbers that the collection states, and a size that can be sent."""

from __future__ import annotations

from pathlib import Path

from dear.report import write_report
from dear.report.gather import CollectionPlan, ReportPlan, gather
from dear.report.page import MAX_BYTES


def test_known_first_stages_on_dl19(shared_data: Path, tmp_path: Path) -> None:
    one = CollectionPlan(
        name=str(shared_data / "dl19"),
        runs={"BM25": "bm25", "RM3": "bm25_rm3", "SPLADE++": "splade_pp_ed"},
        min_grade=2,
    )
    plan = ReportPlan(collection=(one,), published=("RankVicuna-7B",))
    write_report(tmp_path / "r.html", gather(plan, Path()))
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert text.count("0.5058") >= 2
    assert "0.7308" in text
    assert "0.6682" in text
    # each retrieved for itself: other candidates than BM25's
    assert "other candidates for 43 of 43 queries" in text
    assert len(text.encode()) <= MAX_BYTES
    assert str(shared_data) not in text
