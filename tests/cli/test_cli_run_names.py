"""`NAME=RUN` means the same wherever runs are measured, and a run has one name everywhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import first_stage, good, refused

from dear.data.formats import write_run
from dear.records import Ranking


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """bm25's, upside down."""
    path = tmp_path / "student.v2.trec"
    turned = {
        q: Ranking(query_id=q, passage_ids=r.passage_ids[::-1], scores=r.scores)
        for q, r in first_stage("test").items()
    }
    write_run(path, turned, "x")
    return path


@pytest.mark.parametrize(("prefix", "name"), [("", "student.v2"), ("mine = ", "mine")])
def test_every_command_calls_it_the_same(
    animals: Path, run: Path, tmp_path: Path, prefix: str, name: str
) -> None:
    given = f"{prefix.replace(' ', '')}{run}"
    evaluated = json.loads(good("evaluate", animals, "--run", given, "--json", "-"))
    assert [row["name"] for row in evaluated["runs"]] == ["bm25", name]
    assert evaluated["runs"][1]["reranked"] == "bm25"
    compared = json.loads(good("compare", animals, "bm25", given, "--json"))
    assert (compared["a"], compared["b"]) == ("bm25", name)
    report = tmp_path / "report.md"
    good("report", report, animals, "--run", given)
    assert f"| {name} " in report.read_text(encoding="utf-8")


def test_a_given_name_may_be_the_first_stage(animals: Path, run: Path) -> None:
    runs = ("--run", f"first={animals / 'runs' / 'bm25.test.trec'}", "--run", f"then={run}")
    words = ("evaluate", animals, *runs, "--first-stage", "first", "--json", "-")
    found = json.loads(good(*words))
    assert [(row["name"], row["reranked"]) for row in found["runs"]] == [
        ("first", None),
        ("then", "first"),
    ]


@pytest.mark.parametrize("command", [("evaluate",), ("report", "report.md"), ("compare",)])
def test_a_name_twice_or_none_is_refused(
    animals: Path,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: tuple[str, ...],
) -> None:
    monkeypatch.chdir(tmp_path)
    flag = () if command == ("compare",) else ("--run",)
    words = (*command, animals, *flag)
    assert "two runs are called 'a'" in refused(*words, "a=bm25", *flag, f"a={run}")
    assert "expected NAME=RUN" in refused(*words, f"={run}", *flag, "bm25")
