"""What training leaves on disk: whole checkpoints to go on from, and the finished folder.

While it runs, everything is below `steps/`: the plan, and `checkpoint-N` folders as transformers
writes them, each with a mark (`WHOLE`) once it is on disk. A checkpoint without its mark is
removed; one that no longer agrees with it is set aside, and training goes on from the one before.
The optimizer's state in them (`optimizer.pt`, `scheduler.pt`, `rng_state.pth`) is a
torch pickle; it is read with weights_only, so that a checkpoint from elsewhere runs no code.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Iterator, Set
from pathlib import Path
from typing import Any

from dear import locks
from dear.artifacts import read_json, versions, write_json
from dear.checkpoints.contract import ListwiseContract, ScoringContract
from dear.checkpoints.files import TRAINING_FILE
from dear.digests import Changes, Inputs
from dear.errors import ConfigError, DataError
from dear.train.checkpoint_files import (
    PLAN,
    STEP,
    STEPS,
    WHOLE,
    damage,
    free_bytes,
    incomplete,
    is_marked,
    is_of_writing,
    last_complete,
    mark_complete,
    plan_in,
    saving,
    sizes,
    tells_full,
    to_disk,
    unwritten,
    whole,
)
from dear.train.history import best_step
from dear.train.inputs import changes, plan_of, read_plan

__all__ = [
    "STEPS",
    "claimed",
    "finish",
    "finished_inputs",
    "forget_others",
    "is_finished",
    "keep_only",
    "last_complete",
    "mark_complete",
    "require_same",
    "require_undamaged",
    "saving",
]


_logger = logging.getLogger(__name__)


@contextlib.contextmanager
def claimed(folder: Path, inputs: Inputs) -> Iterator[Path | None]:
    """`folder` for this process and this training; the checkpoint to go on from, if there is one.

    inputs: all that it is made from.
    ConfigError if the training in the folder is finished, or if it holds checkpoints of one from
    other inputs; nothing is touched then. DataError if another process is at it.
    """
    there = finished_inputs(folder)
    if there is not None:
        # a kill may have come between the last file and this
        shutil.rmtree(folder / STEPS, ignore_errors=True)
        require_same(folder, changes(there, inputs))
        raise ConfigError(f"{folder}: this training is finished; remove the folder to repeat it")
    steps = folder / STEPS
    steps.mkdir(parents=True, exist_ok=True)
    with (steps / ".lock").open("w") as lock:
        if not locks.lock(lock.fileno()):
            raise DataError.at(folder, None, "another process is training here")
        yield _begin(folder, inputs)


def _begin(folder: Path, inputs: Inputs) -> Path | None:
    steps = folder / STEPS
    newest = last_complete(steps)
    resume = None
    if newest is not None:
        found = changes(read_plan(_plan_there(steps, newest)), inputs)
        if found:
            raise ConfigError(
                f"{folder} holds another training ({found}); choose another folder, or remove "
                "this one to begin anew"
            )
        if found.unverified:
            _logger.warning(
                "%s: unverified: an earlier version began this training and did not write down "
                "its %s",
                *(folder, ", ".join(found.unverified)),
            )
        resume = _last_sound(steps)
    for path in incomplete(steps):  # first: they may be what fills the disk
        shutil.rmtree(path)
    write_json(steps / PLAN, plan_of(inputs))
    return resume


def _plan_there(steps: Path, newest: Path) -> Any:
    """The plan that the checkpoints were written under."""
    try:
        return read_json(steps / PLAN)
    except DataError as error:
        plan = plan_in(newest)
        if plan is None:
            raise DataError(f"{error}; remove {steps} to begin anew") from None
        _logger.warning("%s; it is restored from %s", error, newest.name)
        return plan


def _last_sound(steps: Path) -> Path:
    """The newest checkpoint that is as it was written; newer ones are set aside.

    So must be the one with the best weights up to then. DataError where there is none.
    """
    problems: dict[Path, str] = {}
    for path in reversed(whole(steps)):
        problem = damage(path)
        best = path if problem else _best_before(path)
        if not problem and best != path:
            lacks = damage(best, weights_alone=True) if is_marked(best) else "is missing"
            problem = lacks and f"the best weights so far are in {best.name}: {lacks}"
        if not problem:
            for damaged, why in problems.items():
                aside = _set_aside(damaged)
                _logger.warning(
                    "%s cannot be read: %s; it is kept as %s, and training goes on from %s",
                    *(damaged, why, aside.name, path.name),
                )
            return path
        problems[path] = problem
    newest, problem = next(iter(problems.items()))
    raise DataError.at(
        newest,
        None,
        f"cannot be read: {problem}; there is no whole checkpoint before it; remove {steps} to "
        "begin anew",
    )


def _best_before(checkpoint: Path) -> Path:
    """The checkpoint that a training which ended here would read its weights from."""
    state = checkpoint / "trainer_state.json"
    step = best_step(read_json(state).get("log_history", [])) if state.is_file() else None
    return checkpoint if step is None else checkpoint.with_name(f"checkpoint-{step}")


def _set_aside(checkpoint: Path) -> Path:
    """Its new name, which no training looks for."""
    number = 1
    while (aside := checkpoint.with_name(f"damaged-{checkpoint.name}-{number}")).exists():
        number += 1
    return checkpoint.rename(aside)


def require_undamaged(checkpoint: Path) -> None:
    """DataError where the weights in a checkpoint are not as they were written."""
    problem = damage(checkpoint, weights_alone=True) if is_marked(checkpoint) else "it is missing"
    if problem:
        raise DataError.at(checkpoint, None, f"cannot be read: {problem}")


def keep_only(steps: Path, numbers: Set[int | None]) -> None:
    """Remove the checkpoints of all other steps."""
    for path in steps.iterdir():
        match = STEP.fullmatch(path.name)
        if match and int(match[1]) not in numbers:
            # the mark goes first: a removal that is cut short must not leave a whole checkpoint
            (path / WHOLE).unlink(missing_ok=True)
            shutil.rmtree(path)


def is_finished(folder: Path) -> bool:
    return (folder / TRAINING_FILE).is_file()


def finished_inputs(folder: Path) -> Inputs | None:
    """What the finished training in a folder was made from; None where there is none."""
    return read_plan(read_json(folder / TRAINING_FILE)) if is_finished(folder) else None


def forget_others(folder: Path, inputs: Inputs) -> None:
    """Remove a training, finished or not, that was made from other inputs."""
    steps = folder / STEPS
    there = finished_inputs(folder)
    newest = last_complete(steps) if there is None and steps.is_dir() else None
    if newest is not None:
        there = read_plan(_plan_there(steps, newest))
    if there is not None and changes(there, inputs):
        shutil.rmtree(folder)


def require_same(folder: Path, found: Changes) -> None:
    """ConfigError where a finished training is of other inputs."""
    if found:
        raise ConfigError(
            f"{folder} holds a finished training from other inputs ({found}); choose another "
            "folder, or remove it to train again"
        )


def finish(
    folder: Path,
    model: Any,
    tokenizer: Any,
    contract: ScoringContract | ListwiseContract | None,
    inputs: Inputs,
    metrics: dict[str, Any],
) -> None:
    """Write the finished checkpoint: contract, weights, tokenizer; then inputs, metrics, versions.

    TRAINING_FILE is written when everything else is on disk, and the steps are removed after it.
    """
    before = set(folder.iterdir())
    try:
        _write_finished(folder, model, tokenizer, contract)
        write_json(
            folder / TRAINING_FILE,
            {**plan_of(inputs), "metrics": metrics, "versions": versions()},
        )
    except Exception as error:
        if not is_of_writing(error):
            raise
        for path in {*folder.iterdir()} - before:
            path.unlink() if path.is_file() else shutil.rmtree(path)
        need = sizes(model).finished
        full = tells_full(error, free=free_bytes(folder), need=need)
        raise unwritten(folder, "the finished weights", error, need, full=full) from error
    shutil.rmtree(folder / STEPS, ignore_errors=True)


def _write_finished(
    folder: Path,
    model: Any,
    tokenizer: Any,
    contract: ScoringContract | ListwiseContract | None,
) -> None:
    if contract is not None:  # a bi-encoder has none
        # before the weights: weights without a contract would be read by CARD
        contract.save(folder)
    # False: else peft asks the hub whether the vocabulary has grown
    extra = {"save_embedding_layers": False} if hasattr(model, "peft_config") else {}
    model.save_pretrained(folder, **extra)
    tokenizer.save_pretrained(folder)
    to_disk(folder)
