"""One of two processes dies: the other ends soon, and the next start ends with the same weights."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from dear.errors import BackendError
from dear.recipes import Recipe
from dear.train.checkpoints import last_complete
from dear.train.pointwise import train
from dear.train.trainer import GroupTrainer
from kills import die, in_processes
from tiny_training import collection, recipe, same, weights

CHANGES: dict[str, Any] = {"train__save_steps": 3, "model__dropout": 0.1}

SOON_S = 60.0
"""A busy machine is not a failure; a process that waits for the group's timeout is."""


def job(rank: int, made: Recipe, folder: Path, victim: int, step: int, note: Path) -> None:
    """One of two processes; `victim` dies in the forward pass of a step."""
    torch.set_num_threads(1)
    inner = GroupTrainer.compute_loss

    def compute_loss(trainer: GroupTrainer, *args: Any, **options: Any) -> Any:
        if rank == victim and trainer.state.global_step + 1 == step:
            note.write_text(str(time.time()))
            die()
        return inner(trainer, *args, **options)

    GroupTrainer.compute_loss = compute_loss  # type: ignore[method-assign]
    expects = pytest.raises(BackendError, match="another process of this training has ended")
    with expects if victim in (0, 1) else contextlib.nullcontext():
        train(made, folder, collections={"tiny": collection()})


@pytest.fixture(scope="module")
def whole(bert: str, labels: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Weights of a training in two processes that nothing disturbed."""
    place = tmp_path_factory.mktemp("whole")
    made = recipe(bert, labels, **CHANGES)
    assert in_processes(2, job, made, place / "out", -1, 0, place / "died") == [0, 0]
    return weights(place / "out")


@pytest.mark.slow
@pytest.mark.parametrize(("victim", "step"), [(0, 5), (1, 8)])
def test_one_of_two_processes_is_killed(
    victim: int, step: int, bert: str, labels: str, tmp_path: Path, whole: dict[str, Any]
) -> None:
    made = recipe(bert, labels, **CHANGES)
    note, folder = tmp_path / "died", tmp_path / "killed"
    ended = in_processes(2, job, made, folder, victim, step, note)
    assert time.time() - float(note.read_text()) < SOON_S
    assert ended[victim] == -9
    assert ended[1 - victim] == 0  # it raised what it must
    kept = folder / "steps" / f"checkpoint-{(step - 1) // 3 * 3}"
    assert last_complete(folder / "steps") == kept
    assert in_processes(2, job, made, folder, -1, 0, note) == [0, 0]
    assert same(whole, weights(folder))
