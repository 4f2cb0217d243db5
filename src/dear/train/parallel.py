"""The same training in several processes: each step's groups dealt out, its gradient that of one.

Every process reads the same batches in the same order as one alone would, and takes every n-th
group of each. Its loss is the sum over its groups by the number of groups in the whole step, times
the number of processes, by which DistributedDataParallel and FSDP divide. So a step's gradient is
the mean over all its groups, also where the last step is short, where groups differ in size and
where a process gets none. accelerate's own sharding would repeat groups to make shares even.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import Trainer

from dear.errors import BackendError
from dear.train.deepspeed import Zero
from dear.train.fsdp import Fsdp2
from dear.train.processes import NOT_FINITE, summed

Shards: TypeAlias = Fsdp2 | Zero

SHARDS = "dear_shards"
"""Attribute of a model that lies over all processes."""

GROUPS = "groups_of_all"
"""Key of a batch: groups in it over all processes."""

WEIGHT = "weight"
"""Key of a batch: 0 where this process got none of its groups and holds a stand-in."""


class ShareCollator:
    """This process's share of a batch. Without one it takes the first group, with weight 0: all
    processes must go through the model equally often."""

    def __init__(
        self, collator: Callable[[Sequence[Any]], Mapping[str, Any]], rank: int, processes: int
    ) -> None:
        self.collator = collator
        self.rank = rank
        self.processes = processes

    def __call__(self, examples: Sequence[Any]) -> dict[str, Any]:
        mine = examples[self.rank :: self.processes]
        batch = self.collator(mine or examples[:1])
        return {**batch, GROUPS: len(examples), WEIGHT: float(bool(mine))}


class StepTrainer(Trainer):
    """A Trainer whose step's loss is the mean over the step's groups, in any number of processes.

    A batch says its groups by `rows`. With one process this is transformers' Trainer as it is.
    A model may lie over the processes (`dear.train.fsdp`, `dear.train.deepspeed`).
    """

    groups_in_step: int = 1
    passes_in_step: int = 1
    lr_scheduler: Any

    @property
    def several(self) -> bool:
        return bool(self.args.world_size > 1)

    @property
    def shards(self) -> Shards | None:
        """How the model lies over the processes; None for a whole one."""
        return getattr(self.model, SHARDS, None)

    def get_train_dataloader(self) -> Any:
        """What one process would read, of which the collator keeps this one's share."""
        from accelerate.data_loader import prepare_data_loader

        if not self.several:
            return super().get_train_dataloader()
        args: Any = self.args
        data: Any = self.train_dataset
        collator: Any = self.data_collator
        loader: Any = DataLoader(
            data,
            batch_size=self._train_batch_size,
            sampler=self._get_train_sampler(),
            collate_fn=ShareCollator(collator, args.process_index, args.world_size),
            pin_memory=args.dataloader_pin_memory,
        )
        return prepare_data_loader(
            loader,
            self.accelerator.device,
            num_processes=1,
            process_index=0,
            put_on_device=True,
            use_seedable_sampler=True,
            data_seed=args.data_seed,
        )

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """One step's batches, counted over all processes."""
        batches, _ = super().get_batch_samples(*args, **kwargs)
        self.passes_in_step = len(batches)
        self.groups_in_step = sum(batch.get(GROUPS, len(batch["rows"])) for batch in batches)
        if self.several:
            # of the step and the process alone, so that going on needs no state of each process
            place = self.state.global_step * self.args.world_size + self.args.process_index
            torch.manual_seed((self.args.seed * 1_000_003 + place) % 2**63)
        return batches, None

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        """The Trainer's, a part of the batch after another: the activations of one at a time."""
        parts = [inputs] if self.several else self.parts(inputs)
        loss = super().training_step(model, parts[0], num_items_in_batch)
        for part in parts[1:]:
            loss = loss + super().training_step(model, part, num_items_in_batch)
        return loss

    def parts(self, inputs: Any) -> list[Any]:
        """The groups of a batch in batches as small as they should be."""
        return [inputs]

    def share(self, inputs: Mapping[str, Any]) -> float:
        """What the sum of a pass's losses is multiplied with; the Trainer divides by the passes,
        and the average of the gradients by the processes."""
        share = self.passes_in_step / self.groups_in_step
        return share * float(self.args.world_size * inputs.get(WEIGHT, 1.0))

    def require_finite(self, loss: torch.Tensor) -> None:
        """BackendError, in all processes alike, for a loss that is none."""
        loss = summed(loss)
        if not torch.isfinite(loss):
            raise BackendError(
                f"step {self.state.global_step + 1}: the loss is {loss.item()}; {NOT_FINITE}"
            )

    # what a model in shards needs

    def _wrap_model(self, model: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
        if self.shards is None:
            return super()._wrap_model(model, *args, **kwargs)
        # a wrapped model is left alone by accelerate
        return self.shards.wrap(self) if model is self.model else model

    def _move_model_to_device(self, model: nn.Module, device: torch.device) -> None:
        if not hasattr(model, SHARDS):
            super()._move_model_to_device(model, device)

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm)  # type: ignore[no-untyped-call]
        return norm if self.shards is None else self.shards.grad_norm(norm)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        if self.shards is None:
            super().save_model(output_dir, _internal_call)
            return
        weights = self.shards.weights(keep=self.args.should_save)
        if self.args.should_save:
            self._save(output_dir, state_dict=weights)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self.shards is None:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        state = self.shards.optimizer_state(self.optimizer, keep=self.args.should_save)
        if self.args.should_save:
            torch.save(state, Path(output_dir) / "optimizer.pt")
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / "scheduler.pt")

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or self.shards is None:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        self.shards.load_optimizer(self.optimizer, Path(checkpoint) / "optimizer.pt")
        state = torch.load(Path(checkpoint) / "scheduler.pt", weights_only=True)
        self.lr_scheduler.load_state_dict(state)

    def _load_from_checkpoint(self, checkpoint: str, model: Any = None) -> None:
        if self.shards is None:  # otherwise they were read before the model was laid out
            super()._load_from_checkpoint(checkpoint, model)

    def _save_rng_state(self, output_dir: str) -> None:
        if not self.several:
            super()._save_rng_state(output_dir)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if not self.several:
            super()._load_rng_state(checkpoint)
