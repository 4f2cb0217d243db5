"""transformers' Trainer over groups: losses by group, nDCG@10 on dev, whole checkpoints."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, TrainerCallback

from dear.checkpoints.contract import ScoringContract
from dear.checkpoints.heads import HEADS
from dear.errors import BackendError
from dear.evaluate.metrics import evaluate
from dear.losses import Objective
from dear.recipes import TrainRecipe
from dear.records import Candidates, Judgements, Ranking
from dear.scoring.engines.one_position import reads_one
from dear.scoring.loading import ScoringModel
from dear.scoring.scorer import Scorer
from dear.train.batches import flat_logits, group_losses, split_batch
from dear.train.checkpoints import keep_only, mark_complete
from dear.train.history import best_step, dev_curve, is_out_of_patience, loss_curve
from dear.train.parallel import StepTrainer
from dear.train.processes import NOT_FINITE, scored_together
from dear.train.processes import rank as process_rank

MEASURE = "nDCG@10"
CPU_TRAIN_TOKENS = 4096
"""Padded tokens that go through the model at once on a CPU, and tokens of the groups whose
activations are held at once; the numbers do not depend on it."""


@dataclass(frozen=True, slots=True)
class Step:
    """What a progress bar shows. loss: the mean since the last one; ndcg: on dev, or None."""

    done: int
    total: int
    loss: float
    ndcg: float | None = None


@dataclass(frozen=True, slots=True)
class Dev:
    """Candidates to rank while training, and the judgements of their queries alone."""

    candidates: tuple[Candidates, ...]
    judgements: Judgements


@dataclass(frozen=True, slots=True)
class Scoring:
    """What turns the model in training into a scorer."""

    tokenizer: Any
    contract: ScoringContract

    def of(self, model: Any, device: torch.device) -> ScoringModel:
        return ScoringModel(
            model=model,
            tokenizer=self.tokenizer,
            contract=self.contract,
            name="the model in training",
            revision="",
            device=device,
        )


class GroupTrainer(StepTrainer):
    """A batch is a batch of groups, a step's loss the mean over its groups, the metric nDCG@10.

    When to log, evaluate, save and stop is `Flow`'s affair; the arguments must leave it alone
    (every strategy "no").
    """

    model: Any

    def __init__(
        self,
        *,
        recipe: TrainRecipe,
        objective: Objective,
        scoring: Scoring,
        dev: Dev | None,
        progress: Callable[[Step], None] | None = None,
        callbacks: Sequence[TrainerCallback] = (),
        **trainer: Any,
    ) -> None:
        self.objective: Objective = objective
        self.scoring = scoring
        self.dev = dev
        self.head_learning_rate = recipe.head_learning_rate
        flow = Flow(recipe, has_dev=dev is not None, progress=progress)
        super().__init__(callbacks=[flow, *callbacks], **trainer)
        self.remove_callback(PrinterCallback)
        # compute_loss weighs a pass by its groups; the Trainer then divides by the passes
        self.model_accepts_loss_kwargs = False
        # the processes of a model in shards go through it equally often
        small = self.args.device.type == "cpu" and self.shards is None
        self.budget = CPU_TRAIN_TOKENS if small else None
        # recomputing a layer would have to cut it again; a model in shards has no whole layer
        kept = not recipe.gradient_checkpointing and self.shards is None
        self.alone = kept and reads_one(scoring.of(self.model, self.args.device))

    def parts(self, inputs: Any) -> list[Any]:
        return [inputs] if self.budget is None else split_batch(inputs, self.budget)

    def compute_loss(
        self,
        model: Any,
        inputs: Mapping[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """This pass's share of the step: the sum over its groups by the step's number of groups.

        Times the number of passes, which the Trainer divides by. BackendError if not finite.
        """
        logits = flat_logits(model, inputs, self.budget, alone=self.alone)
        each = group_losses(self.objective, logits, inputs)
        loss = each.sum() * self.share(inputs)
        self.require_finite(loss)
        return (loss, {"logits": logits}) if return_outputs else loss

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The Trainer's own, with the head in groups of its own learning rate if it has one."""
        is_new = self.optimizer is None
        optimizer: torch.optim.Optimizer = super().create_optimizer(model)
        if is_new and self.head_learning_rate is not None:
            named = (self.model if model is None else model).named_parameters()
            heads = {id(p) for name, p in named if set(name.split(".")) & set(HEADS)}
            _split(optimizer, heads, self.head_learning_rate)
        return optimizer

    def evaluate(self, *_args: Any, **_kwargs: Any) -> dict[str, float]:
        """nDCG@10 of the model in training, over the dev candidates alone."""
        dev = self.dev or Dev((), {})
        was_training = self.model.training
        self.model.eval()
        scorer = Scorer(
            self.scoring.of(self.model, self.args.device),
            # other engines go past the root of a model in shards
            engine="padded" if self.shards is not None else "auto",
        )
        rankings = rank(scorer, dev, self.args.device, by_all=self.shards is not None)
        found = evaluate(rankings, dev.judgements, [MEASURE])
        metrics = {"eval_ndcg": found.means[MEASURE]}
        self.model.train(was_training)
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics


def rank(
    scorer: Scorer, dev: Dev, device: torch.device, *, by_all: bool = False
) -> dict[str, Ranking]:
    """The dev candidates in the order of the scorer's scores, the same in all processes."""
    parts = [[(c.query.text, p.full_text) for p in c.passages] for c in dev.candidates]
    found = scored_together(
        lambda pairs: scorer.score(pairs).tolist(), parts, device, by_all=by_all
    )
    return {
        c.query.id: Ranking.sorted(c.query.id, [p.id for p in c.passages], scores)
        for c, scores in zip(dev.candidates, found, strict=True)
    }


class Flow(TrainerCallback):
    """When to log, evaluate, save and stop.

    All of it follows from the step and from the evaluations so far, which every checkpoint
    holds, so that a training that goes on decides as the undisturbed one did. At one step the
    order is: log, evaluate, save; no checkpoint lacks what happened at its step.
    """

    def __init__(
        self,
        recipe: TrainRecipe,
        *,
        has_dev: bool,
        progress: Callable[[Step], None] | None = None,
    ) -> None:
        self.recipe = recipe
        self.has_dev = has_dev
        self.progress = progress

    def on_step_end(self, args: Any, state: Any, control: Any, **_kwargs: Any) -> None:
        step, recipe = state.global_step, self.recipe
        is_last = step >= state.max_steps
        is_round = is_last or state.epoch == int(state.epoch)
        evaluates = self.has_dev and (is_last or _due(step, recipe.eval_steps, is_round))
        control.should_evaluate = evaluates
        control.should_save = is_last or _due(
            step, recipe.save_steps, evaluates if self.has_dev else is_round
        )
        # a mean that a checkpoint cut in two would be another one after going on
        control.should_log = (
            _due(step, recipe.log_steps, False) or control.should_evaluate or control.should_save
        )
        if self.progress is not None and state.is_world_process_zero:
            curve, dev = loss_curve(state.log_history), dev_curve(state.log_history)
            loss = curve[-1]["loss"] if curve else math.nan
            ndcg = dev[-1]["eval_ndcg"] if dev else None
            self.progress(Step(step, state.max_steps, loss, ndcg))

    def on_pre_optimizer_step(
        self, args: Any, state: Any, control: Any, model: Any = None, **_kwargs: Any
    ) -> None:
        # before the weights are touched, so that no checkpoint ever holds NaN
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        norm: Any = torch.nn.utils.get_total_norm(gradients)
        if hasattr(norm, "full_tensor"):
            norm = norm.full_tensor()
        if not torch.isfinite(norm):
            raise BackendError(
                f"step {state.global_step + 1}: the gradient is {norm.item()}; {NOT_FINITE}"
            )

    def on_evaluate(self, args: Any, state: Any, control: Any, **_kwargs: Any) -> None:
        if best_step(state.log_history) == state.global_step:
            control.should_save = True
        if is_out_of_patience(state.log_history, self.recipe.patience):
            control.should_save = control.should_training_stop = True

    def on_save(self, args: Any, state: Any, control: Any, **_kwargs: Any) -> None:
        if process_rank():
            return
        steps = Path(args.output_dir)
        mark_complete(steps / f"checkpoint-{state.global_step}")
        keep_only(steps, {state.global_step, best_step(state.log_history)})


def _due(step: int, every: int, otherwise: bool) -> bool:
    return step % every == 0 if every else otherwise


def _split(optimizer: torch.optim.Optimizer, chosen: set[int], learning_rate: float) -> None:
    for group in list(optimizer.param_groups):
        mine = [p for p in group["params"] if id(p) in chosen]
        if mine:
            group["params"] = [p for p in group["params"] if id(p) not in chosen]
            optimizer.add_param_group({**group, "params": mine, "lr": learning_rate})
