"""A full disk, and what it leaves: one line, the last whole checkpoint, and the same weights."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import dear.train.pointwise
import dear.train.trainer
from dear.errors import BackendError, ConfigError, DataError
from dear.recipes import Recipe
from dear.train.checkpoint_files import gigabytes, sizes, taken_bytes
from dear.train.checkpoints import finish, last_complete, mark_complete, saving
from dear.train.pointwise import Step, train
from disks import PAGE, fill, small_disk
from tiny_training import collection, recipe, same, weights

LORA = {"rank": 2, "targets": ["query", "value"]}
DEV = {"collection": "tiny", "queries": 6, "top_k": 12}
ORDER = ("model.safetensors", "optimizer.pt", "trainer_state.json", "WHOLE")
"""Files of a checkpoint as they are written, some small ones between them."""


@pytest.fixture(scope="module")
def whole(bert: str, labels: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Weights of a training that nothing disturbed."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("whole") / "out"
    run(recipe(bert, labels), folder)
    return weights(folder)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", 4 << 20) as place:
        yield place


def run(made: Recipe, folder: Path, **options: Any) -> Any:
    return train(made, folder, collections={"tiny": collection()}, **options)


def pages(path: Path) -> int:
    return -(-path.stat().st_size // PAGE)


def room_until(checkpoint: Path, name: str) -> int:
    """Bytes that let a checkpoint be written up to the middle of one of its files."""
    files = sorted(checkpoint.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    before = files[: [path.name for path in files].index(name)]
    return (sum(map(pages, before)) + pages(checkpoint / name) // 2) * PAGE


@pytest.mark.parametrize("name", ORDER)
def test_a_disk_that_gets_full_while_a_checkpoint_is_written(
    name: str, bert: str, labels: str, disk: Path, whole: dict[str, Any]
) -> None:
    made = recipe(bert, labels, train__save_steps=3)
    folder = disk / "out"
    ballast: list[Path] = []

    def fill_at_5(step: Step) -> None:
        if step.done == 5:
            first = folder / "steps" / "checkpoint-3"
            ballast.append(fill(disk, leave=room_until(first, name)))

    with pytest.raises(DataError) as caught:
        run(made, folder, progress=fill_at_5)
    assert re.fullmatch(
        rf"{folder}: no room for checkpoint-6: it takes \d+ kB, [\d.]+ (kB|bytes) are free; make "
        r"room, and the same command goes on from checkpoint-3",
        str(caught.value),
    )
    assert [p.name for p in (folder / "steps").glob("checkpoint-*")] == ["checkpoint-3"]
    ballast[0].unlink()
    run(made, folder)
    assert same(whole, weights(folder))


@pytest.mark.parametrize(
    ("leave", "extra"),
    [(0, {}), (4, {}), (2, {"model__lora": LORA})],
    ids=["at once", "in the weights", "of an adapter"],
)
def test_a_disk_that_gets_full_while_the_finished_weights_are_written(
    leave: int,
    extra: dict[str, Any],
    bert: str,
    labels: str,
    disk: Path,
    whole: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = recipe(bert, labels, **extra)
    ballast: list[Path] = []

    def on_a_full_disk(*arguments: Any) -> None:
        ballast.append(fill(disk, leave=leave * PAGE))
        finish(*arguments)

    monkeypatch.setattr(dear.train.pointwise, "finish", on_a_full_disk)
    folder = disk / "out"
    with pytest.raises(DataError, match="no room for the finished weights: it takes") as caught:
        run(made, folder)
    assert "the same command goes on from checkpoint-10" in str(caught.value)
    assert [path.name for path in folder.iterdir()] == ["steps"]
    monkeypatch.undo()
    ballast[0].unlink()
    run(made, folder)
    if not extra:
        assert same(whole, weights(folder))


def test_a_disk_without_room_for_one_checkpoint_is_told_before_the_first_step(
    bert: str, labels: str, tmp_path: Path
) -> None:
    made = recipe(bert, labels)
    steps: list[Step] = []
    with small_disk(tmp_path / "disk", 25 * PAGE) as disk:
        with pytest.raises(DataError, match=r"no room for a checkpoint: it takes \d+ kB, \d+ kB"):
            run(made, disk / "out", progress=steps.append)
        assert not steps
        assert list((disk / "out" / "steps").glob("checkpoint-*")) == []


@pytest.mark.parametrize(
    ("disk_mb", "there_mb", "kept", "said"),
    [
        # a checkpoint takes 3 MB, the finished weights 1 MB
        (9.5, 0, 2, "nothing"),
        (8.5, 0, 2, "a warning"),
        (8.5, 0, 1, "nothing"),
        (5.5, 0, 1, "a warning"),
        (3.5, 0, 1, "an error"),
        # what the checkpoints take that are there is not needed once more
        (6.5, 3, 1, "nothing"),
        (8.5, 3, 2, "a warning"),
        (5.5, 3, 1, "an error"),
    ],
)
def test_what_is_said_of_the_room_there_is(
    disk_mb: float,
    there_mb: int,
    kept: int,
    said: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = torch.nn.Linear(250, 1000, bias=False)
    with small_disk(tmp_path / "disk", round(disk_mb * 1e6)) as disk:
        checkpoint = disk / "steps" / "checkpoint-3"
        checkpoint.mkdir(parents=True)
        (checkpoint / "model.safetensors").write_bytes(b"x" * there_mb * 1_000_000)
        mark_complete(checkpoint)
        refused = pytest.raises(DataError, match=r"no room for a checkpoint: it takes 3.0 MB, ")
        expected = refused if said == "an error" else contextlib.nullcontext()
        with caplog.at_level(logging.WARNING, "dear"), expected, saving(disk, model, kept=kept):
            pass
        assert checkpoint.exists()
    most = f"up to {kept + 1} checkpoints of 3.0 MB stand there at once"
    assert (most in caplog.text) == (said == "a warning")


def test_only_a_failed_write_removes_what_was_written(tmp_path: Path) -> None:
    torn = tmp_path / "steps" / "checkpoint-3"
    torn.mkdir(parents=True)
    for error in (ConnectionResetError("a peer"), RuntimeError("Connection closed by peer")):
        with pytest.raises(type(error)), saving(tmp_path, torch.nn.Identity()):
            raise error
        assert torn.exists()
    with pytest.raises(DataError, match=r"checkpoint-3 could not be written: Input/output error; "):
        fail_to_write(tmp_path)
    assert not torn.exists()


def fail_to_write(folder: Path) -> None:
    with saving(folder, torch.nn.Identity()):
        raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_a_limit_on_file_sizes_is_no_full_disk(bert: str, labels: str, tmp_path: Path) -> None:
    """What a quota looks like to torch's writer, which gives no reason."""
    made = recipe(bert, labels, train__save_steps=3)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit_at_5(step: Step) -> None:
        if step.done == 5:
            # more than the weights, less than the optimizer's state
            resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, hard))

    try:
        with pytest.raises(DataError) as caught:
            run(made, tmp_path / "out", progress=limit_at_5)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "checkpoint-6 could not be written: the disk took only a part" in str(caught.value)
    assert last_complete(tmp_path / "out" / "steps") == tmp_path / "out" / "steps" / "checkpoint-3"
    run(made, tmp_path / "out")


@pytest.mark.parametrize(
    "extra",
    [{}, {"model__lora": LORA}, {"model__lora": {**LORA, "merge": True}}],
    ids=["full", "adapter", "merged"],
)
def test_the_sizes_are_those_on_disk_and_never_more(
    extra: dict[str, Any], bert: str, labels: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = recipe(bert, labels, **extra)
    seen: list[tuple[Any, int]] = []
    inner = dear.train.pointwise.run_to_end

    def watched(trainer: Any, *arguments: Any) -> Any:
        model = inner(trainer, *arguments)
        merges = made.model.lora is not None and made.model.lora.merge
        taken = taken_bytes(tmp_path / "out" / "steps")
        seen.append((sizes(trainer.model, merges=merges), taken))
        return model

    monkeypatch.setattr(dear.train.pointwise, "run_to_end", watched)
    run(made, tmp_path / "out")
    need, taken = seen[0]
    # file formats add some kilobytes, as do small files, of which each takes a page
    assert need.checkpoint <= taken < need.checkpoint + 110_000
    on_disk = sum(p.stat().st_size for p in (tmp_path / "out").glob("*.safetensors"))
    assert need.finished <= on_disk < need.finished + 10_000


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1_600, "1.6 kB"),
        (12_345_678, "12 MB"),
        (1_600_000_000, "1.6 GB"),
        (1_234_000_000_000, "1,234 GB"),
    ],
)
def test_sizes_in_words(count: int, text: str) -> None:
    assert gigabytes(count) == text


def test_an_error_that_is_none_of_the_disk_stays_what_it_is(
    bert: str, labels: str, tmp_path: Path
) -> None:
    def fail(step: Step) -> None:
        if step.done == 5:
            raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        run(recipe(bert, labels, train__save_steps=3), tmp_path / "out", progress=fail)


def test_a_model_of_no_bytes_needs_no_room() -> None:
    assert sizes(torch.nn.Identity()).checkpoint == 0


# a loss that is not finite


def test_after_nan_the_kept_weights_may_begin_another_training(
    bert: str, labels: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, folder = recipe(bert, labels, train__save_steps=2), tmp_path / "out"
    inner = dear.train.trainer.group_losses
    calls: list[int] = []

    def broken(*args: Any) -> torch.Tensor:
        calls.append(1)
        return inner(*args) * (float("nan") if len(calls) == 6 else 1.0)

    monkeypatch.setattr(dear.train.trainer, "group_losses", broken)
    with pytest.raises(BackendError) as caught:
        run(made, folder)
    monkeypatch.undo()
    kept = folder / "steps" / "checkpoint-4"
    assert last_complete(folder / "steps") == kept
    told = str(caught.value)
    assert told.startswith("step 6: the loss is nan; lower train.learning_rate, or set train.auto")
    assert "the last whole checkpoint in steps/ is kept, and can be its model.base" in told

    lower = {"train__save_steps": 2, "train__learning_rate": 1e-3}
    with pytest.raises(ConfigError) as refused:
        run(recipe(bert, labels, **lower), folder)
    assert "recipe.train.learning_rate: 0.01 there, 0.001 now" in str(refused.value)
    assert "choose another folder, or remove this one to begin anew" in str(refused.value)

    # what it says works: the first step has a rate of 0 and leaves those weights
    still = {"train__max_steps": 1, "train__scheduler": "linear"}
    run(recipe(str(kept), labels, **still), tmp_path / "next")
    assert same(load_file(kept / "model.safetensors"), weights(tmp_path / "next"))
