"""A model in shards over all processes (FSDP2, Zhao et al. 2023), saved as if it were whole.

A checkpoint holds what one process writes: all weights and the optimizer's state by the number of
each parameter. So training goes on in any number of processes, in shards or not.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dear.checkpoints.wrappers import bare_model
from dear.scoring.loading import find_layers


def shard(model: Any, device: torch.device, *, cpu_offload: bool, bfloat16: bool) -> Any:
    """The model cut into shards, each layer on its own, in place; on `device` or kept on the CPU.

    bfloat16: what is gathered to compute with; the shards and their gradients' sum stay as they
    are.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import (
        CPUOffloadPolicy,
        MixedPrecisionPolicy,
        OffloadPolicy,
        fully_shard,
    )

    options: dict[str, Any] = {
        "mesh": init_device_mesh(device.type, (torch.distributed.get_world_size(),)),
        "mp_policy": MixedPrecisionPolicy(
            param_dtype=torch.bfloat16 if bfloat16 else None,
            reduce_dtype=torch.float32 if bfloat16 else None,
        ),
        "offload_policy": CPUOffloadPolicy() if cpu_offload else OffloadPolicy(),
    }
    bare = bare_model(model)
    parent, name = find_layers(bare, bare.config.get_text_config().num_hidden_layers)
    for layer in getattr(parent, name):
        fully_shard(layer, **options)
    fully_shard(model, **options)
    if not cpu_offload:
        for buffer in model.buffers():
            buffer.data = buffer.data.to(device)
    return model


class Sharded(nn.Module):
    """Around a model in shards, where DistributedDataParallel would be around a whole one."""

    def __init__(self, module: Any, autocast: Callable[[], Any]) -> None:
        super().__init__()
        self.module = module
        self.autocast = autocast

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with self.autocast():
            return self.module(*args, **kwargs)

    @contextlib.contextmanager
    def no_sync(self) -> Iterator[None]:
        """Nothing waits: gradients that stay here until the step's last pass stay whole, and
        take the memory that shards save."""
        yield


class Fsdp2:
    """One model in shards, and what is to be known of it as a whole."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def wrap(self, trainer: Any) -> nn.Module:
        return Sharded(self.model, trainer.accelerator.autocast)

    def grad_norm(self, norm: Any) -> Any:
        return norm.full_tensor() if hasattr(norm, "full_tensor") else norm

    def weights(self, *, keep: bool) -> dict[str, torch.Tensor]:
        """All of them, on the CPU; of an adapter, those that are trained.

        All processes must call it. keep: false throws them away.
        """
        trained = {name for name, p in self.model.named_parameters() if p.requires_grad}
        adapter = hasattr(self.model, "peft_config")
        found = {}
        for name, value in self.model.state_dict().items():
            if not adapter or name in trained:
                whole = _whole(value)
                if keep:
                    found[name] = whole
        return found

    def optimizer_state(self, optimizer: Any, *, keep: bool) -> dict[str, Any]:
        """The optimizer's state as one process has it. All processes must call it."""
        state = optimizer.state_dict()
        whole: dict[Any, dict[str, Any]] = {}
        for number, values in state["state"].items():
            one = {key: _whole(v) if torch.is_tensor(v) else v for key, v in values.items()}
            if keep:
                whole[number] = one
        return {"state": whole, "param_groups": state["param_groups"]}

    def load_optimizer(self, optimizer: Any, file: Path) -> None:
        """A whole state into the shards of this process."""
        from torch.distributed.tensor import DTensor, distribute_tensor

        state = torch.load(file, map_location="cpu", weights_only=True)
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        for number, values in state["state"].items():
            mine = parameters[number]
            for key, value in values.items():
                whole = torch.is_tensor(value) and value.shape == mine.shape
                if isinstance(mine, DTensor) and whole:
                    there = value.to(mine.device_mesh.device_type)
                    values[key] = distribute_tensor(there, mine.device_mesh, mine.placements)
        optimizer.load_state_dict(state)


def _whole(value: torch.Tensor) -> torch.Tensor:
    whole = value.full_tensor() if hasattr(value, "full_tensor") else value
    return whole.detach().cpu()
