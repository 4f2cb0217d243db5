"""Killed at any moment and run again, a training ends with the weights of an undisturbed one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_batches import example

import dear.train.checkpoints
import dear.train.trainer
from dear.checkpoints.files import TRAINING_FILE
from dear.data.collections import Collection
from dear.digests import Input
from dear.errors import BackendError, ConfigError, DataError
from dear.recipes import Recipe
from dear.train.checkpoints import claimed, keep_only, last_complete, mark_complete
from dear.train.inputs import inputs_of
from dear.train.pointwise import Step, train
from kills import die, dies_at, in_a_process
from tiny_training import collection, recipe, same, weights

F = {"examples": Input("f")}
DEV = {"collection": "tiny", "queries": 6, "top_k": 12}
LORA = {"rank": 2, "targets": ["query", "value"], "dropout": 0.1}


def job(made: Recipe, folder: Path, kill: str, call: int) -> None:
    """One training process, which dies where `kill` says."""
    torch.set_num_threads(1)
    checkpoints, trainer = dear.train.checkpoints, dear.train.trainer
    progress: Callable[[Step], None] | None = None
    if kill == "at a step":
        progress = lambda step: die() if step.done == call else None  # noqa: E731
    elif kill == "before a checkpoint is whole":
        trainer.mark_complete = dies_at(call, mark_complete)
    elif kill == "before older ones are removed":
        trainer.keep_only = dies_at(call, keep_only)
    elif kill == "while an older one is removed":
        checkpoints.shutil.rmtree = dies_at(call, cut_short)  # type: ignore[attr-defined]
    elif kill == "before the report":
        checkpoints.write_json = dies_at(call + 1, checkpoints.write_json)  # 1 is the plan
    elif kill == "while the weights are written":
        checkpoints.to_disk = dies_at(call, leave_half)
    train(made, folder, collections={"tiny": collection()}, progress=progress)


def cut_short(path: Path, **_options: Any) -> None:
    """A removal that gets as far as the weights."""
    for file in Path(path).glob("*.safetensors"):
        file.unlink()
    die()


def leave_half(folder: Path) -> None:
    """Weights of which the end is missing."""
    if not folder.name.startswith("checkpoint-"):
        path = next(folder.glob("*.safetensors"))
        path.write_bytes(path.read_bytes()[:100])
        die()


def killed(made: Recipe, folder: Path, kills: list[tuple[str, int]]) -> None:
    """Kill after kill, then to the end."""
    for kill, call in kills:
        assert in_a_process(job, made, folder, kill, call) == -9, (kill, call)
    assert in_a_process(job, made, folder, "never", 0) == 0


def report(folder: Path) -> dict[str, Any]:
    """All that was measured but the time."""
    found = json.loads((folder / TRAINING_FILE).read_text())["metrics"]
    return {k: v for k, v in found.items() if k not in ("seconds", "resumed_from_step")}


def text(folder: Path) -> str:
    """The report as it is written: the order of its keys is part of it."""
    return json.dumps(report(folder))


KINDS: dict[str, dict[str, Any]] = {
    # saved at steps that are no step of the log and not at the end of an epoch
    "two rates": {"train__save_steps": 3, "train__epochs": 3, "train__head_learning_rate": 3e-2},
    "dropout, accumulated": {
        "train__save_steps": 2,
        "train__accumulate": 2,
        "model__dropout": 0.2,
    },
    "adapter": {"train__save_steps": 3, "model__lora": {**LORA, "merge": True}},
    "saved once an epoch": {"train__epochs": 3, "model__dropout": 0.1},
    "constant rate, cut by max_steps": {
        "train__save_steps": 2,
        "train__max_steps": 7,
        "train__scheduler": "constant",
    },
}


@pytest.mark.parametrize("kind", KINDS)
def test_killed_twice_the_weights_are_the_same(
    kind: str, bert: str, labels: str, tmp_path: Path
) -> None:
    made = recipe(bert, labels, **KINDS[kind])
    train(made, tmp_path / "whole", collections={"tiny": collection()})
    killed(made, tmp_path / "killed", [("at a step", 4), ("at a step", 7)])
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "killed"))
    assert text(tmp_path / "whole") == text(tmp_path / "killed")
    resumed = json.loads((tmp_path / "killed" / TRAINING_FILE).read_text())["metrics"]
    assert resumed["resumed_from_step"] > 0


@pytest.mark.parametrize(
    ("kill", "extra"),
    [
        (("before a checkpoint is whole", 2), {}),
        (("before older ones are removed", 2), {}),
        (("while an older one is removed", 1), {}),
        (("while the weights are written", 1), {}),
        # ends within an epoch, where the Trainer would go on to the next step
        (("before the report", 1), {"train__max_steps": 7}),
        (("before the report", 1), {"model__lora": LORA}),
    ],
    ids=["mark", "removal", "in removal", "weights", "report", "report of an adapter"],
)
def test_killed_while_files_are_written_the_weights_are_the_same(
    kill: tuple[str, int], extra: dict[str, Any], bert: str, labels: str, tmp_path: Path
) -> None:
    # a constant rate: one step too many would show
    made = recipe(bert, labels, train__save_steps=3, train__scheduler="constant", **extra)
    train(made, tmp_path / "whole", collections={"tiny": collection()})
    killed(made, tmp_path / "killed", [kill, kill] if "report" in kill[0] else [kill])
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "killed"))
    assert text(tmp_path / "whole") == text(tmp_path / "killed")
    assert not (tmp_path / "killed" / "steps").exists()


@pytest.mark.parametrize("extra", [{}, {"model__lora": LORA}], ids=["full", "adapter"])
def test_with_dev_and_patience_the_same_checkpoint_is_chosen(
    extra: dict[str, Any], bert: str, labels: str, tmp_path: Path
) -> None:
    made = recipe(
        bert,
        labels,
        dev=DEV,
        train__epochs=12,
        train__eval_steps=2,
        train__save_steps=5,
        train__patience=3,
        train__learning_rate=3e-2,
        train__scheduler="constant",
        **extra,
    )
    train(made, tmp_path / "whole", collections={"tiny": collection()})
    whole = report(tmp_path / "whole")
    assert 7 < whole["steps"] < 60  # it did stop early
    assert whole["best_step"] < whole["steps"]
    last = whole["steps"]
    killed(
        made,
        tmp_path / "killed",
        [("at a step", 5), ("at a step", last), ("before the report", 1)],
    )
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "killed"))
    assert report(tmp_path / "killed") == whole


def test_a_kill_between_report_and_clean_up_is_cleaned_up(
    bert: str, labels: str, tiny: Collection, tmp_path: Path
) -> None:
    made = recipe(bert, labels)
    assert in_a_process(job, made, tmp_path / "out", "never", 0) == 0
    (tmp_path / "out" / "steps" / "checkpoint-10").mkdir(parents=True)
    with pytest.raises(ConfigError, match="is finished; remove the folder to repeat it"):
        train(made, tmp_path / "out", collections={"tiny": tiny})
    assert not (tmp_path / "out" / "steps").exists()
    with pytest.raises(ConfigError, match=r"finished training from other inputs \(examples: "):
        train(made, tmp_path / "out", examples=[example(3, 1)])


@pytest.fixture
def interrupted(bert: str, labels: str, tiny: Collection, tmp_path: Path) -> tuple[Recipe, Path]:
    """A training that was killed at step 7 of 10, with checkpoints of steps 6 and so on."""
    made = recipe(bert, labels, train__save_steps=3)
    assert in_a_process(job, made, tmp_path / "out", "at a step", 7) == -9
    return made, tmp_path / "out"


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"train__learning_rate": 0.5}, "recipe.train.learning_rate: 0.01 there, 0.5 now"),
        ({"train__seed": 7}, "recipe.train.seed: 42 there, 7 now"),
        ({"model__dropout": 0.1}, "recipe.model.dropout: 0.0 there, 0.1 now"),
        ({"dev": DEV}, "recipe.dev: None there, {'collection': 'tiny'"),
    ],
)
def test_another_recipe_is_refused_and_nothing_is_lost(
    interrupted: tuple[Recipe, Path],
    bert: str,
    labels: str,
    tiny: Collection,
    change: dict[str, Any],
    difference: str,
) -> None:
    _, folder = interrupted
    before = files(folder)
    other = recipe(bert, labels, **{"train__save_steps": 3, **change})
    with pytest.raises(ConfigError) as caught:
        train(other, folder, collections={"tiny": tiny})
    assert difference in str(caught.value)
    assert files(folder) == before


def test_other_examples_are_refused_and_nothing_is_lost(
    interrupted: tuple[Recipe, Path], tiny: Collection
) -> None:
    made, folder = interrupted
    before = files(folder)
    with pytest.raises(ConfigError, match=r"examples: '[0-9a-f]{16}' there, '[0-9a-f]{16}' now"):
        train(made, folder, examples=[example(3, i) for i in range(18)])
    assert files(folder) == before
    assert train(made, folder, collections={"tiny": tiny}).pairs == 216


def test_a_recipe_that_failed_before_its_first_checkpoint_may_be_mended(
    bert: str, labels: str, tiny: Collection, tmp_path: Path
) -> None:
    bad = recipe(bert, labels, model__lora={"targets": ["nothing"]})
    with pytest.raises(ConfigError, match="nothing"):
        train(bad, tmp_path / "out", collections={"tiny": tiny})
    train(recipe(bert, labels), tmp_path / "out", collections={"tiny": tiny})


def test_a_second_process_is_refused(
    bert: str, labels: str, tiny: Collection, tmp_path: Path
) -> None:
    made = recipe(bert, labels)
    with claimed(tmp_path / "out", inputs_of(made, {}, F)):
        assert in_a_process(refused, made, tmp_path / "out") == 0
    train(made, tmp_path / "out", collections={"tiny": tiny})


def refused(made: Recipe, folder: Path) -> None:
    with (
        pytest.raises(DataError, match="another process is training here"),
        claimed(folder, inputs_of(made, {}, F)),
    ):
        pass


def checkpoint(steps: Path, step: int, *, whole: bool) -> Path:
    path = steps / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "model.safetensors").write_bytes(b"x")
    if whole:
        mark_complete(path)
    return path


def test_the_newest_whole_checkpoint_counts_by_number(tmp_path: Path) -> None:
    assert last_complete(tmp_path) is None
    for step, whole in ((9, True), (10, True), (11, False), (100, False)):
        checkpoint(tmp_path, step, whole=whole)
    (tmp_path / "checkpoint-12-copy").mkdir()
    assert last_complete(tmp_path) == tmp_path / "checkpoint-10"


def test_checkpoints_cut_short_are_removed_when_training_goes_on(bert: str, tmp_path: Path) -> None:
    made = recipe(bert)
    with claimed(tmp_path, inputs_of(made, {}, F)) as nothing:
        assert nothing is None
        kept = checkpoint(tmp_path / "steps", 5, whole=True)
        torn = checkpoint(tmp_path / "steps", 10, whole=False)
    with claimed(tmp_path, inputs_of(made, {}, F)) as resume:
        assert resume == kept
        assert not torn.exists()


def test_only_the_named_checkpoints_are_kept(tmp_path: Path) -> None:
    for step in (5, 10, 15, 20):
        checkpoint(tmp_path, step, whole=True)
    (tmp_path / "plan.json").write_text("{}")
    keep_only(tmp_path, {5, 20, None})
    assert {p.name for p in tmp_path.iterdir()} == {"checkpoint-5", "checkpoint-20", "plan.json"}


def test_a_checkpoint_never_looks_whole_while_it_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = checkpoint(tmp_path, 5, whole=True)
    seen: list[bool] = []
    inner = shutil.rmtree

    def spied(target: Path) -> None:
        seen.append((target / "WHOLE").exists())
        inner(target)

    monkeypatch.setattr(shutil, "rmtree", spied)
    keep_only(tmp_path, set())
    assert seen == [False]
    assert not path.exists()


def test_there_is_always_a_whole_checkpoint_and_never_more_than_three(
    bert: str, labels: str, tiny: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[tuple[int, int]] = []
    steps = tmp_path / "out" / "steps"

    def watched(folder: Path, numbers: Any) -> None:
        found = list(steps.glob("checkpoint-*"))
        before = sum((p / "WHOLE").exists() for p in found)
        keep_only(folder, numbers)
        counts.append((before, len(list(steps.glob("checkpoint-*")))))

    monkeypatch.setattr(dear.train.trainer, "keep_only", watched)
    made = recipe(bert, labels, dev=DEV, train__save_steps=1, train__epochs=4)
    train(made, tmp_path / "out", collections={"tiny": tiny})
    assert len(counts) == 20
    assert all(1 <= before <= 3 and after <= 2 for before, after in counts)


class Opened:
    """A pickle that runs code where it is opened without care."""

    def __reduce__(self) -> Any:
        return (Path.touch, (Path("was-run"),))


def test_a_checkpoint_from_elsewhere_runs_no_code(
    interrupted: tuple[Recipe, Path],
    tiny: Collection,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The optimizer's state is a pickle."""
    made, folder = interrupted
    monkeypatch.chdir(tmp_path)
    torch.save(Opened(), folder / "steps" / "checkpoint-6" / "optimizer.pt")
    with pytest.raises(DataError, match=r"checkpoint-6.*cannot be read"):
        train(made, folder, collections={"tiny": tiny})
    assert not (tmp_path / "was-run").exists()


def test_after_a_loss_that_was_not_finite_training_goes_on_from_the_last_whole_checkpoint(
    bert: str, labels: str, tiny: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = recipe(bert, labels, train__save_steps=2)
    train(made, tmp_path / "whole", collections={"tiny": tiny})
    inner = dear.train.trainer.group_losses

    def broken(*args: Any) -> torch.Tensor:
        calls.append(1)
        return inner(*args) * (float("nan") if len(calls) == 6 else 1.0)

    calls: list[int] = []
    monkeypatch.setattr(dear.train.trainer, "group_losses", broken)
    with pytest.raises(BackendError, match="step 6: the loss is nan"):
        train(made, tmp_path / "broken", collections={"tiny": tiny})
    monkeypatch.undo()
    train(made, tmp_path / "broken", collections={"tiny": tiny})
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "broken"))
    assert report(tmp_path / "whole") == report(tmp_path / "broken")


def test_the_plan_is_the_recipes_own(bert: str, tmp_path: Path) -> None:
    made = recipe(bert)
    with claimed(tmp_path, inputs_of(made, {}, F)):
        plan = json.loads((tmp_path / "steps" / "plan.json").read_text())
    assert plan["inputs"]["examples"] == {"digest": "f"}
    assert plan["recipe"]["train"]["seed"] == made.train.seed
    assert plan["recipe"] != json.loads(json.dumps(replace(made, name="other").to_dict()))
