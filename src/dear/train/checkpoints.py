"""What training leaves on disk: whole checkpoints to go on from, and the finished folder."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import shutil
from pathlib import Path
from typing import Any

from dear.artifacts import read_json, write_json
from dear.errors import ConfigError
from dear.models.contract import ScoringContract
from dear.recipes import Recipe

TRAINING_FILE = "dear_training.json"
_WHOLE = "WHOLE"
_STEP = re.compile(r"checkpoint-(\d+)")
_PACKAGES = ("dear-rerank", "torch", "transformers", "peft", "accelerate", "numpy")


def mark_whole(checkpoint: Path) -> None:
    """Everything in the folder is on disk: say so in it, last."""
    for path in checkpoint.iterdir():
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    (checkpoint / _WHOLE).write_text("", encoding="utf-8")


def last_whole(folder: Path) -> Path | None:
    """The newest checkpoint that was written to its end; those cut short are removed."""
    found: list[tuple[int, Path]] = []
    for path in folder.glob("checkpoint-*"):
        step = _STEP.fullmatch(path.name)
        if step is None:
            continue
        if (path / _WHOLE).exists():
            found.append((int(step[1]), path))
        else:
            shutil.rmtree(path)
    return max(found)[1] if found else None


def begin(folder: Path, recipe: Recipe, fingerprint: str) -> Path | None:
    """Claim `folder` for a recipe; the checkpoint to go on from, if there is one.

    fingerprint: of the training examples.
    ConfigError if the folder holds another recipe's training, or the same on other examples.
    """
    plan = {"recipe": json.loads(json.dumps(recipe.to_dict())), "examples": fingerprint}
    path = folder / "training_plan.json"
    if path.is_file():
        there = read_json(path)
        different = _differences(plan, there)
        if different:
            raise ConfigError(
                f"{folder} holds another training ({'; '.join(different[:3])}); choose another "
                "folder or remove it"
            )
    else:
        write_json(path, plan)
    return last_whole(folder / "steps")


def is_finished(folder: Path) -> bool:
    return (folder / TRAINING_FILE).is_file()


def finish(
    folder: Path,
    model: Any,
    tokenizer: Any,
    contract: ScoringContract,
    recipe: Recipe,
    metrics: dict[str, Any],
) -> None:
    """Write the finished checkpoint: weights, tokenizer, contract, recipe, metrics, versions.

    The steps are removed only when everything else is on disk.
    """
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
    contract.save(folder)
    write_json(
        folder / TRAINING_FILE,
        {"recipe": recipe.to_dict(), "metrics": metrics, "versions": versions()},
    )
    shutil.rmtree(folder / "steps", ignore_errors=True)


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that numbers depend on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _differences(mine: Any, theirs: Any, path: str = "") -> list[str]:
    if isinstance(mine, dict) and isinstance(theirs, dict):
        keys = sorted({*mine, *theirs})
        return [
            d
            for k in keys
            for d in _differences(mine.get(k), theirs.get(k), f"{path}.{k}".lstrip("."))
        ]
    return [] if mine == theirs else [f"{path}: {theirs!r} there, {mine!r} now"]
