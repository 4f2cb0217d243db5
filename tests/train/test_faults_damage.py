"""Checkpoints that were damaged on disk: what is told, what is kept, from where it goes on."""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dear.data.collections import Collection
from dear.errors import ConfigError, DataError
from dear.recipes import Recipe
from dear.train.checkpoint_files import damage, plan_in
from dear.train.checkpoints import last_complete, mark_complete
from dear.train.pointwise import Step, train
from tiny_training import recipe, same, weights

DEV = {"collection": "tiny", "queries": 6, "top_k": 12}


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def flip(path: Path) -> None:
    """One bit in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "model.safetensors": (cut, r"model.safetensors has 100 of \d+,\d+ bytes"),
    "optimizer.pt": (cut, r"optimizer.pt has 100 of \d+,\d+ bytes"),
    "scheduler.pt": (Path.unlink, "scheduler.pt is missing"),
    "rng_state.pth": (flip, "the checksum of rng_state.pth is another one"),
    "trainer_state.json": (lambda path: path.write_text("{"), "trainer_state.json has 1 of"),
    "WHOLE": (cut, "WHOLE is broken"),
}


@pytest.fixture(scope="module")
def stopped(
    bert: str, labels: str, tiny: Collection, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Recipe, Path, Path]:
    """(recipe, an undisturbed training, one stopped at step 9 of 10).

    The best checkpoint is that of an early step, the last one of step 8.
    """
    torch.set_num_threads(1)
    made = recipe(
        bert,
        labels,
        dev=DEV,
        train__eval_steps=2,
        train__save_steps=2,
        train__learning_rate=3e-2,
        train__scheduler="constant",
    )
    place = tmp_path_factory.mktemp("stopped")
    train(made, place / "whole", collections={"tiny": tiny})

    def stop(step: Step) -> None:
        if step.done == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(made, place / "out", collections={"tiny": tiny}, progress=stop)
    names = sorted(p.name for p in (place / "out" / "steps").glob("checkpoint-*"))
    assert len(names) == 2
    assert names[-1] == "checkpoint-8"
    return made, place / "whole", place / "out"


@pytest.fixture
def copy(stopped: tuple[Recipe, Path, Path], tmp_path: Path) -> Path:
    shutil.copytree(stopped[2], tmp_path / "out")
    return tmp_path / "out"


def best_and_last(folder: Path) -> tuple[Path, Path]:
    best, last = sorted((folder / "steps").glob("checkpoint-*"))
    return best, last


@pytest.mark.parametrize("name", DAMAGE)
def test_training_goes_on_from_the_checkpoint_before_a_damaged_one(
    name: str,
    stopped: tuple[Recipe, Path, Path],
    copy: Path,
    tiny: Collection,
    caplog: pytest.LogCaptureFixture,
) -> None:
    made, whole, _ = stopped
    best, last = best_and_last(copy)
    harm, problem = DAMAGE[name]
    harm(last / name)
    seen: list[Path] = []

    def look(step: Step) -> None:
        seen.extend((copy / "steps").glob("damaged-*"))

    with caplog.at_level(logging.WARNING, "dear"):
        train(made, copy, collections={"tiny": tiny}, progress=look)
    (line,) = caplog.messages
    assert line.startswith(f"{last} cannot be read: ")
    assert line.endswith(
        f"; it is kept as damaged-checkpoint-8-1, and training goes on from {best.name}"
    )
    assert re.search(problem, line)
    assert {path.name for path in seen} == {"damaged-checkpoint-8-1"}
    report = json.loads((copy / "dear_training.json").read_text())["metrics"]
    assert report["resumed_from_step"] == int(best.name.rsplit("-", 1)[1])
    assert same(weights(whole), weights(copy))


@pytest.mark.parametrize("name", DAMAGE)
def test_without_a_whole_checkpoint_it_is_one_line_and_nothing_is_removed(
    name: str, stopped: tuple[Recipe, Path, Path], copy: Path, tiny: Collection
) -> None:
    made, _, _ = stopped
    best, last = best_and_last(copy)
    shutil.rmtree(best)
    DAMAGE[name][0](last / name)
    before = sorted(copy.rglob("*"))
    with pytest.raises(DataError) as caught:
        train(made, copy, collections={"tiny": tiny})
    assert str(caught.value).startswith(f"{last}: cannot be read: ")
    assert str(caught.value).endswith(
        f"; there is no whole checkpoint before it; remove {copy}/steps to begin anew"
    )
    assert sorted(copy.rglob("*")) == before


def test_a_damaged_best_checkpoint_is_told_before_hours_of_training(
    stopped: tuple[Recipe, Path, Path], copy: Path, tiny: Collection
) -> None:
    made, _, _ = stopped
    best, last = best_and_last(copy)
    cut(best / "model.safetensors")
    with pytest.raises(DataError) as caught:
        train(made, copy, collections={"tiny": tiny})
    told = f"{last}: cannot be read: the best weights so far are in {best.name}: model.safetensors"
    assert str(caught.value).startswith(told)


def test_the_optimizer_of_the_best_checkpoint_is_not_needed(
    stopped: tuple[Recipe, Path, Path], copy: Path, tiny: Collection
) -> None:
    made, whole, _ = stopped
    best, _ = best_and_last(copy)
    cut(best / "optimizer.pt")
    train(made, copy, collections={"tiny": tiny})
    assert same(weights(whole), weights(copy))


@pytest.mark.parametrize("harm", [cut, Path.unlink, lambda path: path.write_text("[]")])
def test_a_broken_plan_is_restored_from_the_last_checkpoint(
    harm: Callable[[Path], None],
    stopped: tuple[Recipe, Path, Path],
    copy: Path,
    bert: str,
    labels: str,
    tiny: Collection,
    caplog: pytest.LogCaptureFixture,
) -> None:
    made, whole, _ = stopped
    plan = copy / "steps" / "plan.json"
    harm(plan)
    with pytest.raises(ConfigError, match="holds another training"):
        train(recipe(bert, labels, train__save_steps=2), copy, collections={"tiny": tiny})
    with caplog.at_level(logging.WARNING, "dear"):
        caplog.clear()
        train(made, copy, collections={"tiny": tiny})
    (line,) = caplog.messages
    assert str(plan) in line
    assert line.endswith("it is restored from checkpoint-8")
    assert same(weights(whole), weights(copy))


def test_a_broken_plan_and_a_broken_mark_are_one_line(
    stopped: tuple[Recipe, Path, Path], copy: Path, tiny: Collection
) -> None:
    cut(copy / "steps" / "plan.json")
    cut(best_and_last(copy)[1] / "WHOLE")
    with pytest.raises(DataError, match=r"plan\.json.*; remove .*steps to begin anew"):
        train(stopped[0], copy, collections={"tiny": tiny})


class Opened:
    """A pickle that runs code where it is opened without care."""

    def __reduce__(self) -> object:
        return (Path.touch, (Path("was-run"),))


def test_a_pickle_in_a_checkpoint_that_looks_whole_runs_no_code(
    stopped: tuple[Recipe, Path, Path],
    copy: Path,
    tiny: Collection,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, last = best_and_last(copy)
    monkeypatch.chdir(tmp_path)
    torch.save(Opened(), last / "optimizer.pt")
    mark_complete(last)
    with pytest.raises(DataError, match=r"checkpoint-8.*cannot be read"):
        train(stopped[0], copy, collections={"tiny": tiny})
    assert not (tmp_path / "was-run").exists()


def test_the_mark_covers_folders_below_and_not_itself(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint-3"
    (checkpoint / "shards").mkdir(parents=True)
    (checkpoint / "shards" / "0.bin").write_bytes(b"x" * 10)
    (checkpoint / ".WHOLE.123.tmp").write_bytes(b"of a kill")
    mark_complete(checkpoint)
    (checkpoint / ".WHOLE.123.tmp").unlink()
    assert damage(checkpoint) is None
    assert plan_in(checkpoint) is None
    assert last_complete(tmp_path) == checkpoint
    flip(checkpoint / "shards" / "0.bin")
    assert damage(checkpoint) == "the checksum of shards/0.bin is another one"
    (checkpoint / "shards" / "0.bin").unlink()
    assert damage(checkpoint) == "shards/0.bin is missing"
