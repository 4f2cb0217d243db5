"""What the systems of a distillation are called, and how each is used."""

from __future__ import annotations

from pathlib import Path

from dear.data.collections import Collection
from dear.recipes import load_distill_recipe
from dear.steps.distilled import FIRST, STUDENT, STUDENT_FUSED, TEACHER, ZERO_SHOT
from dear.steps.first_stages import DENSE, HYBRID, first_stage_for
from dear.steps.systems import Systems


def systems(folder: Path, recipe: str, *changes: str, trains_teacher: bool = False) -> Systems:
    made = load_distill_recipe(recipe, changes)
    return Systems(
        asked=Collection.from_folder(folder),
        recipe=made,
        folder=Path("runs/mine"),
        first_stage=first_stage_for(made, passages=2),
        trains_teacher=trains_teacher,
        others={"other-x": "owner/x"},
    )


def mydata(folder: Path, *, split: bool = False) -> Path:
    (folder / "corpus.tsv").write_text("a#1\tan owl\na#2\ta cow\n", encoding="utf-8")
    if split:
        (folder / "passages.tsv").write_text("a#1\ta\na#2\ta\n", encoding="utf-8")
    return folder


def test_a_hybrid_is_one_command_and_the_student_is_fused_with_it(tmp_path: Path) -> None:
    found = systems(mydata(tmp_path), "folder")
    names, commands = found.names(), found.commands([FIRST, DENSE, TEACHER, STUDENT_FUSED])
    assert names[TEACHER] == names[HYBRID] == "hybrid of minilm-l6 + 0.3 · BM25"
    assert names[STUDENT_FUSED] == "student + 0.3 · hybrid"
    assert names["other-x + first stage"] == "x + 0.3 · hybrid"
    search = (
        f"dear retrieve {tmp_path} --retriever hybrid --parts bm25,dense:minilm-l6 --weights 0.3,1"
    )
    hybrid = f"{search} --output hybrid.trec"
    assert commands[TEACHER] == (hybrid, f'{search} --query "your question"')
    assert commands[STUDENT_FUSED] == (
        hybrid,
        f"dear rank {tmp_path} --run hybrid.trec --model biencoder:runs/mine/student --fuse 0.3 "
        "--output ranked.trec",
    )


def test_a_trained_teacher_is_no_hybrid(tmp_path: Path) -> None:
    found = systems(mydata(tmp_path), "folder", trains_teacher=True)
    assert found.names()[TEACHER] == "teacher + 0.3 · hybrid"
    assert "--model biencoder:runs/mine/teacher --fuse 0.3" in found.commands([TEACHER])[TEACHER][1]


def test_passages_of_documents_are_ranked_as_documents(tmp_path: Path) -> None:
    found = systems(mydata(tmp_path, split=True), "quick")
    for system in (ZERO_SHOT, STUDENT):
        assert "--aggregate max" in found.commands([system])[system][1]
    assert "aggregate" not in systems(tmp_path, "quick").commands([FIRST])[FIRST][0]
