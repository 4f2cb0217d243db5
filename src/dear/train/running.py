"""A training to its end, from the start or from a checkpoint, in one process or several."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import TrainerState

from dear.checkpoints.hardware import has_bfloat16
from dear.errors import ConfigError, DataError
from dear.recipes import GradientRecipe, PairRecipe, parallel_of
from dear.train.checkpoints import STEPS, require_undamaged, saving
from dear.train.deepspeed import Zero
from dear.train.fsdp import Fsdp2, shard
from dear.train.history import best_step, is_out_of_patience
from dear.train.parallel import SHARDS, Shards
from dear.train.processes import local_device, rank, world_size


def in_shards(recipe: GradientRecipe) -> bool:
    """True if the recipe lays the model over the processes that there are."""
    return world_size() > 1 and parallel_of(recipe).strategy != "ddp"


def laid_out(model: Any, recipe: GradientRecipe, resume: Path | None) -> Any:
    """The model as the recipe's strategy wants it before a trainer takes it.

    resume: the checkpoint to go on from; a model in shards has read its weights already.
    """
    if not in_shards(recipe):
        return model
    if recipe.model.quantise != "none":
        raise ConfigError('model.quantise goes with parallel.strategy = "ddp" alone')
    if resume is not None:
        read_weights(model, resume)
    device, shared = local_device(), parallel_of(recipe)
    autocast = recipe.train.autocast and recipe.model.dtype == "float32"
    cpu_offload = shared.cpu_offload and device.type != "cpu"
    bfloat16 = autocast and has_bfloat16(device)
    shards: Shards
    if shared.strategy == "fsdp2":
        model = shard(model, device, cpu_offload=cpu_offload, bfloat16=bfloat16)
        shards = Fsdp2(model)
    else:
        shards = Zero(
            model,
            3 if shared.strategy == "zero3" else 2,
            cpu_offload=cpu_offload,
            bfloat16=bfloat16,
            max_grad_norm=recipe.train.max_grad_norm,
        )
    setattr(model, SHARDS, shards)
    return model


def run_to_end(
    trainer: Any,
    recipe: GradientRecipe,
    folder: Path,
    resume: Path | None,
    start: Callable[[], Any],
) -> Any:
    """Train to the end; the model with the best weights, whole, in the first process.

    trainer: a transformers Trainer with `Flow` among its callbacks.
    start: makes the model anew, for one in shards.
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
        lora = recipe.model.lora
        dev = recipe.dev if isinstance(recipe, PairRecipe) else recipe.listwise.dev
        try:
            with saving(
                folder,
                trainer.model,
                kept=2 if dev else 1,
                merges=lora is not None and lora.merge,
            ):
                trainer.train(resume_from_checkpoint=str(resume) if resume else None)
        except pickle.UnpicklingError:
            # the optimizer's state is a pickle, read without running what is in it
            raise DataError.at(resume or folder, None, "cannot be read; remove it") from None
        at = trainer.state.global_step
    wanted = best_step(trainer.state.log_history) or trainer.state.global_step
    if rank():
        return trainer.model
    model = start() if trainer.shards is not None else trainer.model
    if wanted != at or trainer.shards is not None:
        read_weights(model, folder / STEPS / f"checkpoint-{wanted}")
    return model


def read_weights(model: Any, checkpoint: Path) -> None:
    """A checkpoint's weights into the model that wrote it."""
    require_undamaged(checkpoint)
    if hasattr(model, "peft_config"):
        from peft import load_peft_weights, set_peft_model_state_dict

        set_peft_model_state_dict(model, load_peft_weights(str(checkpoint), device="cpu"))
        return
    weights: dict[str, torch.Tensor] = {}
    for file in sorted(checkpoint.glob("*.safetensors")):
        weights |= load_file(file)
    lacking = model.load_state_dict(weights, strict=False)
    if not weights or lacking.unexpected_keys:
        raise DataError.at(checkpoint, None, "holds no weights of this model")


def step_of(checkpoint: Path | None) -> int:
    """The step that a checkpoint was written at; 0 for none."""
    if checkpoint is None:
        return 0
    return int(checkpoint.name.rsplit("-", 1)[1])
