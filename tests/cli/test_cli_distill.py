"""`dear distill`: two tables, a sentence about the labels, and the recipe that fits the machine."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from command_line import dear, good

from dear.cli.distill import labels_worth
from dear.data.origins import read_origin
from dear.steps.distilled import LabelsWorth


def words(animals: Path, model: Path, folder: Path) -> list[object]:
    changes = [
        f'teacher.zero_shot="biencoder:{model}"',
        f'teacher.model.base="{model}"',
        f'student.model.base="{model}"',
        "student.model.layers=[]",
        "student.groups.size=4",
        "test.top_k=6",
        "control=true",
        "others=0",
    ]
    sets = [word for change in changes for word in ("--set", change)]
    return ["distill", animals, "--recipe", "auto", *sets, "--output", folder]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the distillation that `printed` does."""
    return tmp_path_factory.mktemp("runs") / "animals"


@pytest.fixture(scope="module")
def printed(animals: Path, reranker: Path, folder: Path) -> tuple[str, str, str]:
    """Standard output of a first run, its standard error, and standard output of a second run."""
    first = dear(*words(animals, reranker, folder))
    assert first.status == 0, first.err
    return first.out, first.err, good(*words(animals, reranker, folder))


def test_two_tables_are_printed_and_printed_again(
    printed: tuple[str, str, str], reranker: Path
) -> None:
    out, _, again = printed
    systems = ["BM25", reranker.name, f"{reranker.name} + 0.3 · BM25"]
    trained = ["teacher + 0.3 · BM25", "student", "student + 0.3 · BM25", "student, no labels"]
    rows = [line for line in out.splitlines() if re.search(r" [01]\.\d{4} ", line)]
    names = [re.split(r"  +", row)[0] for row in rows]
    assert names[:3] == systems
    assert names[3:10] == [*systems, *trained]
    assert re.sub(r"All stages: .*", "", again) == re.sub(r"All stages: .*", "", out)


def test_the_sentence_about_the_labels_says_what_is_compared(
    printed: tuple[str, str, str],
) -> None:
    said = next(line for line in printed[0].splitlines() if line.startswith("The labels alone"))
    assert "95 % interval" in said
    assert "Both students started from the teacher's encoder" in printed[0]


def test_auto_says_which_recipe_and_why(printed: tuple[str, str, str]) -> None:
    (line,) = [line for line in printed[1].splitlines() if line.startswith("dear: recipe ")]
    assert re.match(r"dear: recipe (quick|laptop): this machine has (a GPU|\d+ cores?) ", line)


@pytest.mark.parametrize(
    ("difference", "p", "verdict"),
    [
        (0.03, 0.012, "were worth something: +0.0300"),
        (0.03, 0.05, "were worth nothing that 300 queries can show: +0.0300"),
        (-0.03, 0.4, "were worth nothing that 300 queries can show: -0.0300"),
        (-0.03, 0.012, "did harm: -0.0300"),
    ],
)
def test_the_verdict_follows_from_p(difference: float, p: float, verdict: str) -> None:
    interval = (difference - 0.02, difference + 0.02)
    worth = LabelsWorth(difference=difference, interval=interval, p=p, start="minilm-l6")
    said = labels_worth(worth, 300)
    assert said.startswith(f"The labels alone {verdict} (95 % interval {interval[0]:+.4f} to ")
    assert f"p {p})" in said
    assert "started from minilm-l6" in said


def test_the_recommended_commands_do_what_they_say(
    printed: tuple[str, str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "passages.txt").write_text("an owl hunts\na cow eats grass\n", encoding="utf-8")
    lines = printed[0].splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("Recommended: "))
    commands = [line for line in lines[first + 1 :] if line.startswith("  dear ")]
    assert commands
    for command in commands:
        assert good(*shlex.split(command)[1:])
    assert any(line.startswith("The student") for line in lines[first:])


def test_its_runs_say_what_they_are(
    animals: Path, folder: Path, printed: tuple[str, str, str], tmp_path: Path
) -> None:
    assert printed
    student = folder / "ranked" / "student.trec"
    found = json.loads(good("evaluate", animals, "--run", student, "--json", "-"))
    rows = {row["name"]: row for row in found["runs"]}
    assert {name: row["reranked"] for name, row in rows.items()} == {
        "test": None,
        "student": "test",
    }
    assert "Holm-corrected; intervals are not." in printed[0]
    assert rows["student"]["made_by"]["model"] == f"biencoder:{folder / 'student'}"
    assert rows["student"]["made_by"]["inputs"].keys() >= {"model", "contract", "texts", "run"}
    assert not found["notes"]
    assert not dear("report", tmp_path / "report.md", animals, "--run", student).err
    train = read_origin(folder / "first-stage" / "train.trec")
    assert train is not None
    assert (train.model, train.values["split"]) == (None, "train")
