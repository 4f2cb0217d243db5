"""Runs measured, compared and reported on from Python."""

from __future__ import annotations

from pathlib import Path

import pytest

from dear import steps
from dear.data.collections import open_collection
from dear.data.formats import write_run
from dear.errors import ConfigError
from dear.records import Ranking
from dear.steps.options import CompareOptions, EvaluateOptions, MeasureOptions, ReportOptions


@pytest.fixture(scope="module")
def reversed_run(animals: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The first stage upside down: the relevant passage, third before, is third from the end."""
    run = {
        query: Ranking(
            query_id=query, passage_ids=r.passage_ids[::-1], scores=tuple(range(len(r), 0, -1))
        )
        for query, r in open_collection(animals).run("bm25", "test").items()
    }
    output = tmp_path_factory.mktemp("runs") / "reversed.trec"
    write_run(output, run, "reversed")
    return str(output)


@pytest.mark.usefixtures("silent")
def test_evaluate_finds_measures_and_compares(animals: str, reversed_run: str) -> None:
    measuring = MeasureOptions(measures=("MRR", "nDCG@10"), first_stage="bm25", published=True)
    result = steps.evaluate.evaluate(
        EvaluateOptions(collection=animals, runs=(reversed_run,), measuring=measuring)
    )
    bm25, other = result.study.entries
    assert (bm25.name, other.name) == ("bm25", "reversed")
    assert bm25.evaluation.means["MRR"] == pytest.approx(1 / 3)
    assert other.source.first_stage == "bm25"
    assert result.published == ()
    written = result.to_dict(per_query=True)
    assert written["compared_by"] == "MRR"
    assert written["notes"] == list(result.notes)


@pytest.mark.usefixtures("silent")
def test_compare_chooses_the_queries_with_the_largest_losses(
    animals: str, reversed_run: str
) -> None:
    result = steps.compare.compare(
        CompareOptions(collection=animals, run_a="bm25", run_b=reversed_run, worst=2, top=3)
    )
    assert result.names == ("bm25", "reversed")
    assert len(result.chosen) == 2
    shown = result.to_dict()["queries"][0]
    assert shown["id"] == result.chosen[0]
    assert [place["rank"] for place in shown["ranking_a"]] == [1, 2, 3]


def test_compare_options_choose_queries_in_one_way() -> None:
    with pytest.raises(ConfigError, match="give one of them"):
        CompareOptions(collection="c", run_a="a", run_b="b", worst=1, best=1)


@pytest.mark.usefixtures("silent")
def test_report_writes_every_form(animals: str, reversed_run: str, tmp_path: Path) -> None:
    options = ReportOptions(
        output=tmp_path / "report.html",
        collection=animals,
        runs=("bm25", f"upside down={reversed_run}"),
        also=(tmp_path / "report.md",),
    )
    result = steps.report.report(options)
    assert result.outputs == (options.output, *options.also)
    (part,) = result.report.parts
    assert [entry.name for entry in part.study.entries] == ["bm25", "upside down"]
    assert "upside down" in (tmp_path / "report.md").read_text(encoding="utf-8")
    assert f"--run bm25 --run 'upside down={reversed_run}'" in result.report.command


def test_report_options_check_themselves(tmp_path: Path) -> None:
    output = tmp_path / "report.html"
    with pytest.raises(ConfigError, match="name a collection and its runs, or --study"):
        ReportOptions(output=output)
    with pytest.raises(ConfigError, match="--run and --study: the file says that"):
        ReportOptions(output=output, runs=("r",), study=tmp_path / "study.toml")
