"""A training to its end, from the start or from a checkpoint."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import TrainerState

from dear.errors import DataError
from dear.recipes import Recipe
from dear.train.checkpoints import STEPS
from dear.train.trainer import best_step, is_out_of_patience


def run_to_end(trainer: Any, recipe: Recipe, folder: Path, resume: Path | None) -> None:
    """Train to the end and put the best weights into the model.

    trainer: a transformers Trainer with `Flow` among its callbacks.
    resume: the whole checkpoint to go on from, if there is one.
    DataError: it cannot be read.
    """
    state = TrainerState.load_from_json(str(resume / "trainer_state.json")) if resume else None
    if state is not None and (
        state.global_step >= state.max_steps
        or is_out_of_patience(state.log_history, recipe.train.patience)
    ):
        # killed while it finished: the Trainer would take one step more
        trainer.state = state
        at = None
    else:
        try:
            trainer.train(resume_from_checkpoint=str(resume) if resume else None)
        except pickle.UnpicklingError:
            # the optimizer's state is a pickle, read without running what is in it
            raise DataError.at(resume or folder, None, "cannot be read; remove it") from None
        at = trainer.state.global_step
    wanted = best_step(trainer.state.log_history) or trainer.state.global_step
    if wanted != at:
        _read_weights(trainer.model, folder / STEPS / f"checkpoint-{wanted}")


def _read_weights(model: Any, checkpoint: Path) -> None:
    """A checkpoint's weights into the model that wrote it."""
    if hasattr(model, "peft_config"):
        from peft import load_peft_weights, set_peft_model_state_dict

        set_peft_model_state_dict(model, load_peft_weights(str(checkpoint), device="cpu"))
        return
    weights: dict[str, torch.Tensor] = {}
    for shard in sorted(checkpoint.glob("*.safetensors")):
        weights |= load_file(shard)
    lacking = model.load_state_dict(weights, strict=False)
    if not weights or lacking.unexpected_keys:
        raise DataError.at(checkpoint, None, "holds no weights of this model")


def step_of(checkpoint: Path | None) -> int:
    """The step that a checkpoint was written at; 0 for none."""
    if checkpoint is None:
        return 0
    return int(checkpoint.name.rsplit("-", 1)[1])
