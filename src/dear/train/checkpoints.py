"""What training leaves on disk: whole checkpoints to go on from, and the finished folder.

While it runs, everything is below `steps/`: the plan, and `checkpoint-N` folders as transformers
writes them. The optimizer's state in them (`optimizer.pt`, `scheduler.pt`, `rng_state.pth`) is a
torch pickle; it is read with weights_only, so that a checkpoint from elsewhere runs no code.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator, Set
from pathlib import Path
from typing import Any

from dear.artifacts import read_json, versions, write_json
from dear.errors import ConfigError, DataError
from dear.models.contract import ScoringContract
from dear.models.listwise_contract import ListwiseContract
from dear.recipes import Recipe

TRAINING_FILE = "dear_training.json"
STEPS = "steps"
_PLAN = "plan.json"
_WHOLE = "WHOLE"
_STEP = re.compile(r"checkpoint-(\d+)")


@contextlib.contextmanager
def claimed(folder: Path, recipe: Recipe, fingerprint: str) -> Iterator[Path | None]:
    """`folder` for this process and this training; the checkpoint to go on from, if there is one.

    fingerprint: of the training examples.
    ConfigError if the training in the folder is finished, or if it holds checkpoints of another
    recipe or of other examples; nothing is touched then. DataError if another process is at it.
    """
    if is_finished(folder):
        # a kill may have come between the last file and this
        shutil.rmtree(folder / STEPS, ignore_errors=True)
        raise ConfigError(f"{folder}: this training is finished; remove the folder to repeat it")
    steps = folder / STEPS
    steps.mkdir(parents=True, exist_ok=True)
    with (steps / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise DataError.at(folder, None, "another process is training here") from None
        yield _begin(folder, recipe, fingerprint)


def _begin(folder: Path, recipe: Recipe, fingerprint: str) -> Path | None:
    steps = folder / STEPS
    plan = {"recipe": json.loads(json.dumps(recipe.to_dict())), "examples": fingerprint}
    last = last_whole(steps)
    if last is not None and (different := differences(plan, read_json(steps / _PLAN))):
        raise ConfigError(
            f"{folder} holds another training ({'; '.join(different[:3])}); choose another "
            "folder or remove it"
        )
    write_json(steps / _PLAN, plan)
    for path in steps.iterdir():
        if _STEP.fullmatch(path.name) and not (path / _WHOLE).exists():
            shutil.rmtree(path)
    return last


def last_whole(steps: Path) -> Path | None:
    """The newest checkpoint that was written to its end."""
    found = [
        (int(match[1]), path)
        for path in steps.iterdir()
        if (match := _STEP.fullmatch(path.name)) and (path / _WHOLE).exists()
    ]
    return max(found)[1] if found else None


def mark_whole(checkpoint: Path) -> None:
    """Everything in the folder is on disk: say so in it, last."""
    to_disk(checkpoint)
    (checkpoint / _WHOLE).touch()


def keep_only(steps: Path, numbers: Set[int | None]) -> None:
    """Remove the checkpoints of all other steps."""
    for path in steps.iterdir():
        match = _STEP.fullmatch(path.name)
        if match and int(match[1]) not in numbers:
            # the mark goes first: a removal that is cut short must not leave a whole checkpoint
            (path / _WHOLE).unlink(missing_ok=True)
            shutil.rmtree(path)


def is_finished(folder: Path) -> bool:
    return (folder / TRAINING_FILE).is_file()


def finish(
    folder: Path,
    model: Any,
    tokenizer: Any,
    contract: ScoringContract | ListwiseContract | None,
    recipe: Recipe,
    metrics: dict[str, Any],
) -> None:
    """Write the finished checkpoint: contract, weights, tokenizer; then recipe, metrics, versions.

    TRAINING_FILE is written when everything else is on disk, and the steps are removed after it.
    """
    if contract is not None:  # a bi-encoder has none
        # before the weights: weights without a contract would be read by CARD
        contract.save(folder)
    # False: else peft asks the hub whether the vocabulary has grown
    extra = {"save_embedding_layers": False} if hasattr(model, "peft_config") else {}
    model.save_pretrained(folder, **extra)
    tokenizer.save_pretrained(folder)
    to_disk(folder)
    write_json(
        folder / TRAINING_FILE,
        {"recipe": recipe.to_dict(), "metrics": metrics, "versions": versions()},
    )
    shutil.rmtree(folder / STEPS, ignore_errors=True)


def to_disk(folder: Path) -> None:
    """Wait until the files of a folder are on the disk, so that power may fail."""
    for path in folder.iterdir():
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def differences(mine: Any, theirs: Any, path: str = "") -> list[str]:
    if isinstance(mine, dict) and isinstance(theirs, dict):
        keys = sorted({*mine, *theirs})
        return [
            d
            for k in keys
            for d in differences(mine.get(k), theirs.get(k), f"{path}.{k}".lstrip("."))
        ]
    return [] if mine == theirs else [f"{path}: {theirs!r} there, {mine!r} now"]
