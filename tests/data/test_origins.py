"""The note beside a run: found again, moved with it, and void once the run is another."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from dear.data.origins import FORMAT, first_stage_of, note_path, read_origin, write_origin
from dear.errors import DataError

LINE = "q Q0 d 1 1.0 t\n"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run in a folder of its own, beside the folder of its first stage."""
    path = tmp_path / "ranked" / "student.trec"
    path.parent.mkdir()
    path.write_text(LINE)
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "bm25.trec").write_text(LINE)
    return path


def test_what_is_written_is_read(run: Path, tmp_path: Path) -> None:
    first = tmp_path / "first" / "bm25.trec"
    write_origin(run, {"model": "tiny", "top_k": 7, "pairs": 3}, first_stage=first)
    origin = read_origin(run)
    assert origin is not None
    assert (origin.model, origin.top_k, origin.values["pairs"]) == ("tiny", 7, 3)
    assert origin.first_stage is not None
    assert origin.first_stage.samefile(first)
    assert origin.values["format"] == FORMAT
    assert "dear-rerank" in origin.values["versions"]


def test_a_first_stage_has_no_model_and_no_first_stage(run: Path) -> None:
    write_origin(run, {"bm25": {"k1": 0.9}})
    origin = read_origin(run)
    assert origin is not None
    assert (origin.model, origin.first_stage, origin.top_k) == (None, None, None)


def test_a_folder_of_runs_may_be_moved(run: Path, tmp_path: Path) -> None:
    write_origin(run, {"model": "tiny"}, first_stage=tmp_path / "first" / "bm25.trec")
    there = tmp_path / "there"
    there.mkdir()
    for name in ("ranked", "first"):
        shutil.move(tmp_path / name, there / name)
    origin = read_origin(there / "ranked" / "student.trec")
    assert origin is not None
    assert origin.first_stage == there / "first" / "bm25.trec"
    assert origin.first_stage.is_file()


def test_relative_paths_mean_the_same_run(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run.parent)
    write_origin(Path("student.trec"), {"model": "m"}, first_stage=Path("../first/bm25.trec"))
    monkeypatch.chdir(tmp_path)
    origin = read_origin(Path("ranked/student.trec"))
    assert origin is not None
    assert origin.first_stage == tmp_path.resolve() / "first" / "bm25.trec"


def test_no_note_another_run_or_another_format_is_no_origin(run: Path, tmp_path: Path) -> None:
    assert read_origin(run) is None
    assert read_origin(tmp_path / "nothing.trec") is None
    write_origin(run, {"model": "tiny"})
    assert read_origin(run) is not None
    run.write_text(LINE.replace("1.0", "2.0"))
    assert read_origin(run) is None
    write_origin(run, {"model": "tiny"})
    held = json.loads(note_path(run).read_text())
    note_path(run).write_text(json.dumps(held | {"format": "another/1"}))
    assert read_origin(run) is None


def test_a_note_that_is_no_json_is_an_error_with_its_path(run: Path) -> None:
    note_path(run).write_text("{")
    with pytest.raises(DataError, match=r"student\.trec\.json"):
        read_origin(run)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with a name here")
def test_nothing_is_written_beside_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.trec"
    os.mkfifo(pipe)
    write_origin(pipe, {"model": "tiny"})
    assert not note_path(pipe).exists()
    assert read_origin(pipe) is None


def test_what_a_run_reranked_is_said_by_its_note_or_by_the_collection(tmp_path: Path) -> None:
    names = ("bm25", "other", "student", "plain")
    bm25, other, student, plain = (tmp_path / f"{name}.trec" for name in names)
    for run in (bm25, other, student, plain):
        run.write_text("q Q0 p 1 1.0 t\n", encoding="utf-8")
    own = {"bm25": bm25, "other": other}
    write_origin(student, {"model": "m"}, first_stage=other)
    assert first_stage_of(other, None, own) == (other, None)
    assert first_stage_of(plain, None, own) == (bm25, None)
    assert first_stage_of(plain, None, {}) == (None, None)
    assert first_stage_of(student, read_origin(student), own)[0] == other.resolve()
    other.unlink()
    first, said = first_stage_of(student, read_origin(student), own)
    assert first == bm25
    assert said is not None
    assert "is gone" in said
    write_origin(plain, {"model": None})
    assert first_stage_of(plain, read_origin(plain), own) == (plain, None)
