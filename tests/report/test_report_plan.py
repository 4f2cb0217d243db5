"""From a TOML file to a report: what is found beside runs, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from report_cases import PASSAGES, judgements, queries, run

from dear.data.formats import write_beir, write_lists, write_run
from dear.data.origins import write_origin
from dear.errors import ConfigError, DataError
from dear.evaluate.calibration import calibrate
from dear.evaluate.reliability import judged_scores
from dear.records import ListExample, Query
from dear.report import Report
from dear.report.gather import gather, read_plan

COUNT = 12
BEST = run(COUNT, 0, flaw=COUNT + 1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A collection, a run with its note and its model's folder, and one without."""
    write_beir(
        tmp_path / "animals",
        corpus=PASSAGES.values(),
        queries=[Query(id=q, text=f"what about {q}") for q in queries(COUNT)],
        judgements={"test": judgements(COUNT)},
        runs={"test": {"bm25": run(COUNT, 5)}},
    )
    model = tmp_path / "student"
    model.mkdir()
    metrics = {"loss_curve": [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}], "dev_curve": []}
    (model / "dear_training.json").write_text(json.dumps({"metrics": metrics}), encoding="utf-8")
    pairs = judged_scores(BEST, judgements(COUNT), min_grade=2)
    calibrate(pairs, "platt", revision="1", contract={}).save(model)
    good = tmp_path / "runs" / "good.trec"
    write_run(good, BEST, "good")
    (stage,) = (tmp_path / "animals" / "runs").glob("bm25*")
    values = {"model": str(model), "seconds": 6.0, "pairs": 240, "queries": COUNT}
    write_origin(good, values, first_stage=stage)
    write_run(tmp_path / "runs" / "bare.trec", run(COUNT, 9), "bare")
    return tmp_path


def planned(folder: Path, text: str) -> Report:
    (folder / "study.toml").write_text(text, encoding="utf-8")
    return gather(read_plan(folder / "study.toml"), folder)


PLAIN = """
[[collection]]
name = "animals"
min_grade = 2
runs = { good = "runs/good.trec", bare = "runs/bare.trec" }
"""


def test_what_lies_beside_a_run_is_found(folder: Path) -> None:
    report = planned(folder, PLAIN)
    (part,) = report.parts
    assert [e.name for e in part.study.entries] == ["bm25", "good", "bare"]
    assert [e.source.first_stage for e in part.study.entries] == [None, "bm25", "bm25"]
    assert part.study.compared == "nDCG@10"
    assert part.cost(part.study.entry("good")).ms_per_query == pytest.approx(500)
    assert [c.name for c in report.curves] == ["good"]
    (reliability,) = part.reliability
    assert sum(count for *_, count in reliability.bins) == 3 * COUNT
    assert np.all(np.diff([confidence for confidence, *_ in reliability.bins]) > 0)
    (told,) = [line for line in part.study.notes if "probabilities" in line]
    assert told.startswith("good: its probabilities are by a map fitted on unnamed data; for anim")
    assert part.queries["q1"] == "what about q1"
    assert part.passages["d1"].title == "Title 1"


def test_everything_can_be_said_in_the_file(folder: Path) -> None:
    (folder / "cost.json").write_text('{"seconds": 3.0, "pairs": 9}', encoding="utf-8")
    example = ListExample(
        query=Query(id="q0", text="x"),
        passages=(PASSAGES["d0"], PASSAGES["d1"]),
        order=(1, 0),
        thought="[2] says it",
    )
    write_lists(folder / "lists.jsonl", [example])
    report = planned(
        folder,
        f"""
        title = "Two"
        measures = ["MRR@10", "nDCG@5"]
        compared = "nDCG@5"
        published = ["monoT5-3B"]
        {PLAIN}
        first_stage = "bare"
        costs = {{ bare = "cost.json" }}
        models = {{ bare = "student" }}
        thoughts = {{ good = "lists.jsonl" }}
        """.replace("        ", ""),
    )
    (part,) = report.parts
    assert report.title == "Two"
    assert part.study.measures == ("MRR@10", "nDCG@5")
    assert part.study.compared == "nDCG@5"
    assert [(e.name, e.source.first_stage) for e in part.study.entries] == [
        ("bare", None),
        ("good", "bare"),
    ]
    assert part.cost(part.study.entry("bare")).pairs == 9
    assert part.thoughts["good"]["q0"] == ["[2] says it\n[1] d0, [2] d1"]


def test_a_first_stage_may_be_named_by_its_whole_path(folder: Path) -> None:
    path = folder / "runs" / "bare.trec"
    text = PLAIN.replace(', bare = "runs/bare.trec"', "")
    (part,) = planned(folder, f"{text}first_stage = '{path}'").parts
    assert [(e.name, e.source.first_stage, e.source.path) for e in part.study.entries] == [
        ("bare", None, path),
        ("good", "bare", folder / "runs" / "good.trec"),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "collection: "),
        ("collection = []", r"study.toml: no collection"),
        ("[[collection]\n", "study.toml: "),
        (PLAIN.replace("min_grade", "min_grad"), "'min_grad'; did you mean 'min_grade'"),
        (f"titel = 'x'\n{PLAIN}", "'titel'; did you mean 'title'"),
        (PLAIN.replace("= 2", "= 0"), "min_grade: input should be greater than or equal to 1"),
        (PLAIN.replace("= 2", "= 'two'"), "min_grade: input should be a valid integer"),
        (PLAIN.replace("bare.trec", "gone.trec"), "no run 'runs/gone.trec'"),
        (f"{PLAIN}first_stage = 'gone'", "no run 'gone'"),
        (f"{PLAIN}costs = {{ nobody = 'x.json' }}", "x.json"),
        (f"{PLAIN}models = {{ nobody = 'student' }}", "no run 'nobody'"),
        (f"{PLAIN}models = {{ good = 'gone' }}", "gone: no such folder"),
        (f"measures = ['nDGC@10']\n{PLAIN}", "did you mean 'nDCG'"),
        (f"published = ['monoT5-3b']\n{PLAIN}", "did you mean 'monoT5-3B'"),
        (PLAIN.split("runs")[0] + "runs = {}", "no run to report on"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(folder: Path, text: str, said: str) -> None:
    with pytest.raises((ConfigError, DataError), match=said) as caught:
        planned(folder, text)
    assert "\n" not in str(caught.value)


def test_a_study_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        read_plan(tmp_path / "study.toml")
