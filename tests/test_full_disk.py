"""Labels, runs and records on a disk that is full: one line, and nothing that was there is lost."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dear.artifacts import is_full, read_json, write_json
from dear.cli.main import main
from dear.data.collections import Collection
from dear.data.formats import read_run, write_beir, write_run
from dear.data.labels import LabelStore, Stamp, open_store, read_labels
from dear.errors import DataError
from dear.records import Ranking
from disks import PAGE, enlarge, fill, small_disk
from tiny_training import collection, same, save_bert, weights

RECIPE = """
name = "full-disk"

[model]
base = "{base}"

[[data]]
collection = "{collection}"

[contract]
max_query_tokens = 8
max_passage_tokens = 24

[groups]
size = 6

[loss]
main = ["ce"]
alpha = 0.0

[train]
epochs = 2
groups_per_step = 4
save_steps = 3
autocast = false
"""

STAMP = Stamp(collection="tiny", teacher="t", revision="1", fingerprint="f")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", 1 << 20) as place:
        yield place


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny collection as a BEIR folder."""
    tiny = collection()
    place = tmp_path_factory.mktemp("collections") / "tiny"
    splits = ("train", "dev")
    write_beir(
        place,
        corpus=tiny.corpus.values(),
        queries=tiny.queries().values(),
        judgements={split: tiny.judgements(split) for split in splits},
        runs={split: {"bm25": tiny.run("bm25", split)} for split in splits},
    )
    Collection.from_folder(place)
    return place


def pairs(start: int, count: int) -> list[tuple[str, str]]:
    return [(f"q{i}", f"p{i}") for i in range(start, start + count)]


def scores(count: int) -> np.ndarray:
    dice = random.Random(count)  # what compresses badly
    return np.array([dice.random() for _ in range(count)], dtype=np.float32)


@pytest.mark.parametrize("leave", [0, PAGE, 3 * PAGE])
def test_a_shard_without_room_leaves_the_shards_before_it(leave: int, disk: Path) -> None:
    labels = disk / "labels"

    def append(store: LabelStore, start: int, count: int) -> None:
        store.append(pairs(start, count), scores(count))

    with open_store(labels, STAMP) as store:
        append(store, 0, 10)
        ballast = fill(disk, leave=leave)
        with pytest.raises(DataError, match=r"cannot be written: No space left on device$") as e:
            append(store, 10, 9000)
        assert is_full(e.value)
        assert sorted(os.listdir(labels)) == [".lock", "manifest.json", "shard-000000.parquet"]
        assert len(read_labels(labels)) == 10
        ballast.unlink()
        append(store, 10, 9000)
    assert len(read_labels(labels)) == 9010


@pytest.mark.parametrize("leave", [0, PAGE])
def test_a_run_without_room_leaves_the_run_before_it(leave: int, disk: Path) -> None:
    def ranking(query: str, count: int) -> Ranking:
        return Ranking.sorted(query, [f"p{i}" for i in range(count)], range(count, 0, -1))

    path = disk / "run.trec"
    write_run(path, {"q": ranking("q", 3)}, tag="a")
    fill(disk, leave=leave)
    with pytest.raises(DataError) as caught:
        write_run(path, {"q": ranking("q", 3000)}, tag="b")
    told = f"{path}: cannot be written: No space left on device; the earlier file is kept"
    assert str(caught.value) == told
    assert is_full(caught.value)
    assert len(read_run(path)["q"]) == 3
    assert sorted(os.listdir(disk)) == ["ballast", "run.trec"]


def test_json_without_room_leaves_the_file_before_it(disk: Path) -> None:
    write_json(disk / "x.json", {"a": 1})
    fill(disk)
    with pytest.raises(DataError, match="the earlier file is kept"):
        write_json(disk / "x.json", {"a": "b" * 10_000})
    assert read_json(disk / "x.json") == {"a": 1}


def test_other_failures_are_no_full_disk(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        write_json(tmp_path, {})
    assert not is_full(caught.value)
    assert not is_full(ValueError("full"))
    assert not is_full(None)


def test_the_command_line_says_that_labelling_goes_on(
    disk: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["label", str(folder), "--run", "bm25", "--model", "first-stage"]
    words += ["--output", str(disk / "labels"), "--quiet"]
    fill(disk)
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "cannot be written: No space left on device" in line
    assert line.endswith("; make room, and the same command goes on from here")
    (disk / "ballast").unlink()
    assert main(words) == 0
    assert len(read_labels(disk / "labels")) > 100


def test_the_command_line_promises_nothing_of_commands_that_begin_anew(
    disk: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(disk)
    words = ["retrieve", str(folder), "--split", "train", "--output", str(disk / "run.trec")]
    assert main([*words, "--quiet"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("run.trec: cannot be written: No space left on device")


@pytest.fixture
def training(folder: Path, tmp_path: Path) -> tuple[str, int]:
    """(a recipe's file, bytes of its weights)."""
    base = Path(save_bert(tmp_path / "bert"))
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE.format(base=base, collection=folder))
    return str(recipe), (base / "model.safetensors").stat().st_size


def test_the_command_line_refuses_a_disk_without_room_for_a_checkpoint(
    training: tuple[str, int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, size = training
    with small_disk(tmp_path / "small", 3 * size) as small:
        assert main(["train", recipe, "--output", str(small / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"dear: error: {small}/out: no room for a checkpoint: it takes ")
    assert line.endswith(" are free; make room, or choose a folder on another disk")


def test_the_command_line_goes_on_when_a_full_disk_has_room_again(
    training: tuple[str, int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With nothing pretended: one checkpoint has room, the next one has not."""
    recipe, size = training
    assert main(["train", recipe, "--output", str(tmp_path / "whole")]) == 0
    capsys.readouterr()
    with small_disk(tmp_path / "small", 5 * size + 14 * PAGE) as small:
        words = ["train", recipe, "--output", str(small / "out")]
        assert main(words) == 2
        (error,) = capsys.readouterr().err.splitlines()
        assert error.startswith(f"dear: error: {small}/out: no room for checkpoint-6: it takes ")
        assert error.endswith("make room, and the same command goes on from checkpoint-3")
        enlarge(small, 4 << 20)
        assert main(words) == 0
        assert same(weights(tmp_path / "whole"), weights(small / "out"))
