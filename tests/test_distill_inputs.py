"""A distillation does again exactly what is stale, says so, and loses nothing else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from dear.artifacts import read_json, write_json
from dear.data.collections import Collection
from dear.data.formats import read_run
from dear.data.labels import read_labels
from dear.recipes import DistillRecipe
from dear.records import Passage, Query
from dear.steps.distill import distill
from dear.steps.distilled import Distilled
from test_distill import collection, tiny
from tiny_training import save_bert

STAGES = {
    "retrieve train",
    "retrieve test",
    "train teacher",
    "label",
    "train student",
    "train student-no-labels",
    "rank teacher",
    "rank student",
    "rank student-no-labels",
    "rank zero-shot",
}
ZERO_SHOT = {"rank zero-shot"}
TRAINED = {stage for stage in STAGES - ZERO_SHOT if not stage.startswith("retrieve")}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A base, and a distillation of it; read, never changed."""
    folder = tmp_path_factory.mktemp("distilled")
    base = Path(save_bert(folder / "base"))
    distill(collection(), tiny(str(base)), folder / "d")
    return base, folder / "d"


@pytest.fixture
def mine(finished: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    """Copies that may be changed; the base stays where the recipe says."""
    base, folder = finished
    return base, Path(shutil.copytree(folder, tmp_path / "d"))


def again(
    changed: Collection, recipe: DistillRecipe, folder: Path
) -> tuple[set[str], dict[str, str], Distilled]:
    """(stages that were done, what was said about each, the result)."""
    notes: list[str] = []
    found = distill(changed, recipe, folder, note=notes.append)
    said: dict[str, list[str]] = {stage: [] for stage in STAGES}
    for note in notes:
        stage, _, words = note.partition(": ")
        if stage in said:
            said[stage].append(words)
    done = {stage for stage, words in said.items() if words[-1] != "done before, kept"}
    return done, {stage: "; ".join(words) for stage, words in said.items()}, found


def with_parts(
    corpus: Callable[[dict[str, Passage]], None] | None = None,
    queries: Callable[[dict[str, Query]], None] | None = None,
    judgements: Callable[[dict[str, Any]], None] | None = None,
) -> Collection:
    """The test's collection with something changed in it."""
    plain = collection()
    texts, asked = dict(plain.corpus), plain.queries()
    judged = {
        split: {q: dict(g) for q, g in plain.judgements(split).items()} for split in plain.splits
    }
    for change, part in ((corpus, texts), (queries, asked), (judgements, judged)):
        if change is not None:
            change(part)  # type: ignore[operator]
    return Collection.from_parts("tiny", texts, asked, judged)


def test_nothing_is_done_again_where_nothing_changed(mine: tuple[Path, Path]) -> None:
    base, folder = mine
    done, _, _ = again(collection(), tiny(str(base)), folder)
    assert done == set()


def test_a_changed_passage_is_seen_by_every_stage_that_reads_it(mine: tuple[Path, Path]) -> None:
    base, folder = mine
    before = read_labels(folder / "labels" / "teacher").scores

    def change(corpus: dict[str, Passage]) -> None:
        corpus["p30"] = Passage(id="p30", text="w1 w2 w3 w30 w31")

    done, said, found = again(with_parts(corpus=change), tiny(str(base)), folder)
    assert done == STAGES
    assert "corpus (tiny) changed" in said["retrieve train"]
    fresh = distill(with_parts(corpus=change), tiny(str(base)), folder.parent / "fresh")
    assert [row.score for row in found.rows] == [row.score for row in fresh.rows]
    assert read_labels(folder / "labels" / "teacher").scores != before


def test_changed_training_judgements_train_again_and_test_judgements_only_count(
    mine: tuple[Path, Path],
) -> None:
    base, folder = mine

    def learn(judged: dict[str, Any]) -> None:
        judged["train"]["q0"] = {"p1": 1}

    done, said, _ = again(with_parts(judgements=learn), tiny(str(base)), folder)
    assert done == TRAINED
    assert "judgements (tiny, train) changed" in said["train teacher"]

    def both(judged: dict[str, Any]) -> None:
        learn(judged)
        for grades in judged["test"].values():
            grades["p0"] = 1

    scores = read_json(folder / "results.json")["rows"]
    done, _, found = again(with_parts(judgements=both), tiny(str(base)), folder)
    assert done == set()
    assert [row.score for row in found.rows] != [row["score"] for row in scores]


def test_a_query_that_leaves_the_test_sample_is_ranked_no_more(mine: tuple[Path, Path]) -> None:
    base, folder = mine
    asked = set(read_run(folder / "first-stage" / "test.trec"))

    def forget(judged: dict[str, Any]) -> None:
        for query_id in sorted(asked)[:3]:
            del judged["test"][query_id]

    done, _, found = again(with_parts(judgements=forget), tiny(str(base)), folder)
    assert (
        done
        == {"retrieve test", "rank teacher", "rank student", "rank student-no-labels"} | ZERO_SHOT
    )
    assert set(read_run(folder / "ranked" / "student.trec")) == set(
        read_run(folder / "first-stage" / "test.trec")
    )
    assert found.queries == 9


def test_a_calibration_in_the_students_folder_trains_nothing(mine: tuple[Path, Path]) -> None:
    base, folder = mine
    write_json(folder / "student" / "calibration.json", {"format": "of something"})
    done, _, _ = again(collection(), tiny(str(base)), folder)
    assert done == set()


def test_another_base_trains_again(mine: tuple[Path, Path], tmp_path: Path) -> None:
    original, folder = mine
    # in a copy: the recipe names the path, so both stay where they are
    kept = tmp_path / "kept"
    shutil.copytree(original, kept)
    weights = load_file(original / "model.safetensors")
    try:
        name = sorted(weights)[-1]
        save_file(
            weights | {name: weights[name] + 0.01},
            original / "model.safetensors",
            metadata={"format": "pt"},
        )
        done, said, _ = again(collection(), tiny(str(original)), folder)
    finally:
        shutil.copytree(kept, original, dirs_exist_ok=True)
    assert done == TRAINED | ZERO_SHOT
    assert "base (" in said["train student"]


def test_labels_that_were_added_to_change_nothing_that_was_learnt(
    mine: tuple[Path, Path],
) -> None:
    """The store is another one, and the label stage looks at it; no pair is scored, nothing is
    trained."""
    base, folder = mine
    manifest = folder / "labels" / "teacher" / "manifest.json"
    weights = (folder / "student" / "model.safetensors").stat().st_mtime_ns
    from dear.data.labels import open_store, read_stamp

    with open_store(manifest.parent, read_stamp(manifest.parent)) as store:
        store.append([("q0", "somewhere")], torch.zeros(1).numpy())
    done, said, _ = again(collection(), tiny(str(base)), folder)
    assert done == {"label", "train student"}
    assert "is not as it was made" in said["label"]
    assert "what it has learnt from has not changed" in said["train student"]
    assert (folder / "student" / "model.safetensors").stat().st_mtime_ns == weights


def test_a_moved_folder_is_the_same_distillation(mine: tuple[Path, Path]) -> None:
    base, folder = mine
    moved = folder.rename(folder.with_name("elsewhere"))
    done, _, _ = again(collection(), tiny(str(base)), moved)
    assert done == set()


def test_what_an_earlier_version_left_is_kept_and_said_to_be_unverified(
    mine: tuple[Path, Path],
) -> None:
    base, folder = mine
    for note in (folder / "stages").iterdir():
        values = json.loads(note.read_text())
        del values["inputs"]
        write_json(note, values | {"made": "0123456789abcdef"})
    done, said, _ = again(collection(), tiny(str(base)), folder)
    assert all("kept, unverified" in words for words in said.values())
    assert done == STAGES  # by what was said; but nothing took time
    assert "inputs" not in read_json(folder / "stages" / "label.json")
