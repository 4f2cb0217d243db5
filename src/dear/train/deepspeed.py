"""A model over all processes by DeepSpeed's ZeRO (Rajbhandari et al. 2020), saved as if it were
whole: stage 2 shares gradients and the optimiser's state, stage 3 the weights as well."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dear.errors import BackendError, MissingExtra
from dear.train.processes import NOT_FINITE

_STATES = ("exp_avg", "exp_avg_sq")
_FLAT_3 = "fp32_partitioned_groups_flat"


class Zero:
    """One model under DeepSpeed. The engine is made when the optimiser is there."""

    def __init__(
        self, model: Any, stage: int, *, cpu_offload: bool, bfloat16: bool, max_grad_norm: float
    ) -> None:
        self.model = model
        self.stage = stage
        self.cpu_offload = cpu_offload
        self.bfloat16 = bfloat16
        self.max_grad_norm = max_grad_norm
        self.engine: Any = None
        self.parameters: list[nn.Parameter] = []
        self.groups: list[dict[str, Any]] = []
        self.numbers: list[list[int]] = []

    def wrap(self, trainer: Any) -> nn.Module:
        """The engine around the model; the trainer's optimiser and backward pass are its own."""
        deepspeed = _deepspeed(self.model)
        made = trainer.optimizer
        self.parameters = [p for group in made.param_groups for p in group["params"]]
        first = iter(range(len(self.parameters)))
        self.numbers = [[next(first) for _ in group["params"]] for group in made.param_groups]
        self.groups = [dict(group) for group in made.param_groups]
        for group in made.param_groups:
            group["lr"] = 0.0  # the engine takes a step to make the optimiser's state
        self.engine, *_ = deepspeed.initialize(
            model=self.model, optimizer=made, config=self._config(), dist_init_required=False
        )
        self._make_states()
        for group, old in self._pairs(self.groups):
            group["lr"] = old["lr"]
        trainer.optimizer = _EngineOptimizer(self.engine)

        def backward(loss: torch.Tensor, **_options: Any) -> None:
            self.engine.set_gradient_accumulation_boundary(trainer.accelerator.sync_gradients)
            self.engine.backward(loss)

        trainer.accelerator.backward = backward
        return _Wrapped(self.engine, trainer.accelerator.autocast)

    def grad_norm(self, _norm: Any) -> None:
        """The engine knows it after the step only."""

    def weights(self, *, keep: bool) -> dict[str, torch.Tensor]:
        """Those that are trained, in float32, on the CPU. All processes must call it."""
        found = {}
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                whole = _tools().safe_get_full_fp32_param(parameter)
                if keep:
                    found[name] = whole.detach().cpu().clone()
        return found

    def optimizer_state(self, _optimizer: Any, *, keep: bool) -> dict[str, Any]:
        """As one process has it. All processes must call it."""
        state: dict[int, dict[str, torch.Tensor]] = {}
        step = next(iter(self._states()))["step"]
        for number, parameter in enumerate(self.parameters):
            whole = {key: _tools().safe_get_full_optimizer_state(parameter, key) for key in _STATES}
            if keep:
                state[number] = {"step": torch.as_tensor(step).detach().cpu().clone()} | {
                    key: value.detach().cpu().clone() for key, value in whole.items()
                }
        groups = [
            {**group, "params": numbers}
            for group, numbers in zip(self.groups, self.numbers, strict=True)
        ]
        for group, old in self._pairs(groups):
            old |= {key: value for key, value in group.items() if key != "params"}
        return {"state": state, "param_groups": groups}

    def load_optimizer(self, _optimizer: Any, file: Path) -> None:
        saved = torch.load(file, map_location="cpu", weights_only=True)
        for number, parameter in enumerate(self.parameters):
            for key in _STATES:
                there = saved["state"][number][key].to(self.engine.device)
                _tools().safe_set_full_optimizer_state(parameter, there, key)
        step = saved["state"][0]["step"]
        for state in self._states():
            state["step"] = step.to(state["exp_avg"].device).clone()
        for group, old in self._pairs(saved["param_groups"]):
            group |= {key: value for key, value in old.items() if key != "params"}

    def _pairs(self, groups: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], ...]]:
        """(the engine's group, the one it stands for); stage 3 leaves empty ones out."""
        mine = self.engine.optimizer.param_groups
        if len(mine) < len(groups):
            groups = [g for g, numbers in zip(groups, self.numbers, strict=True) if numbers]
        return zip(mine, groups, strict=True)

    def _make_states(self) -> None:
        """They would come with the first step, and stage 2 would then know those of the first
        group alone by their parameters."""
        outer = self.engine.optimizer
        flat = "single_partition_of_fp32_groups" if self.stage == 2 else _FLAT_3
        for part in getattr(outer, flat):
            outer.optimizer.state[part] = {
                "step": torch.zeros((), device=part.device),
                **{key: torch.zeros_like(part) for key in _STATES},
            }
        if self.stage == 2:
            outer._lazy_init_hp_params_optimizer_state()

    def _states(self) -> Iterator[dict[str, Any]]:
        inner = getattr(self.engine.optimizer, "optimizer", self.engine.optimizer)
        return iter(inner.state.values())

    def _config(self) -> dict[str, Any]:
        zero: dict[str, Any] = {"stage": self.stage}
        if self.cpu_offload:
            zero["offload_optimizer"] = {"device": "cpu"}
            if self.stage == 3:
                zero["offload_param"] = {"device": "cpu"}
        return {
            "train_micro_batch_size_per_gpu": 1,  # batches are dealt out by us
            "gradient_accumulation_steps": 1,
            "gradient_clipping": self.max_grad_norm,
            "zero_optimization": zero,
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "bf16": {"enabled": self.bfloat16},
        }


class _EngineOptimizer(torch.optim.Optimizer):
    """What the Trainer takes for its optimiser: a step of the engine's."""

    def __init__(self, engine: Any) -> None:
        super().__init__([torch.zeros(1)], {})
        self.engine = engine
        self.param_groups = engine.optimizer.param_groups

    def step(self, closure: Any = None) -> Any:
        self.engine.step()
        norm = torch.as_tensor(self.engine.get_global_grad_norm())
        if not torch.isfinite(norm):
            raise BackendError(f"the gradient is {norm.item()}; {NOT_FINITE}")

    def load_state_dict(self, _state: Any) -> None:
        """accelerate would put copies of the groups in the place of the engine's own."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        """The engine has done it."""


class _Wrapped(nn.Module):
    """Around the engine, which knows a `no_sync` that stages 2 and 3 refuse."""

    def __init__(self, module: Any, autocast: Callable[[], Any]) -> None:
        super().__init__()
        self.module = module
        self.autocast = autocast

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with self.autocast():
            return self.module(*args, **kwargs)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """The engine has done it."""


def _deepspeed(model: Any) -> Any:
    on_cpu = next(model.parameters()).device.type == "cpu" and not torch.cuda.is_available()
    if on_cpu:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    try:
        deepspeed: Any = importlib.import_module("deepspeed")
    except ImportError:
        raise MissingExtra.of("deepspeed", "deepspeed") from None
    if on_cpu:
        # gloo does; what shares memory would have to be compiled first
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def _tools() -> Any:
    return importlib.import_module("deepspeed.utils")
