"""trl.SFTTrainer for lists: the loss on the answer alone, ranking losses beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import SequentialSampler
from transformers import PrinterCallback, TrainerCallback
from trl.trainer.sft_trainer import SFTTrainer

from dear.losses.table import find_loss
from dear.recipes import ListLossRecipe, TrainRecipe
from dear.scoring.batching import token_batches
from dear.train.list_reading import CPU_LIST_TOKENS, Read, read
from dear.train.parallel import StepTrainer
from dear.train.processes import of_the_first
from dear.train.trainer import Flow, Step


class ListTrainer(StepTrainer, SFTTrainer):
    """A batch is a batch of lists; a step's loss is the mean over its lists.

    The dataset holds what is read, in order; arguments must leave logging, evaluation and saving
    to `Flow` (every strategy "no").
    head: float32 (H,), of the pointwise model, for the loss on the passages' ends.
    evaluate_orders: nDCG on held-out lists of the model in training, or None.
    """

    model: Any
    loss_is_scaled_for_ga: bool = False  # type: ignore[assignment]

    def __init__(
        self,
        *,
        recipe: TrainRecipe,
        loss: ListLossRecipe,
        head: torch.Tensor | None = None,
        evaluate_orders: Callable[[Any], float] | None = None,
        progress: Callable[[Step], None] | None = None,
        callbacks: Sequence[TrainerCallback] = (),
        **trainer: Any,
    ) -> None:
        self.loss, self.head = loss, head
        self.ranking = find_loss(loss.first_loss).function
        self.evaluate_orders = evaluate_orders
        flow = Flow(recipe, has_dev=evaluate_orders is not None, progress=progress)
        super().__init__(callbacks=[flow, *callbacks], data_collator=_rows, **trainer)
        self.remove_callback(PrinterCallback)
        small = self.args.device.type == "cpu" and self.shards is None
        self.budget = CPU_LIST_TOKENS if small else None

    def parts(self, inputs: Any) -> list[Any]:
        # of like length, in no order
        if self.budget is None:
            return [inputs]
        rows = inputs["rows"]
        batches = token_batches([len(row["input_ids"]) - 1 for row in rows], self.budget)
        return [{"rows": [rows[i] for i in batch]} for batch in batches]

    def compute_loss(
        self,
        model: Any,
        inputs: Mapping[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """This pass's share of the step: the sum over its lists by the step's number of lists.

        Times the number of passes, which the Trainer divides by. BackendError if not finite.
        """
        rows = inputs["rows"]
        head = None if self.head is None else self.head.to(self.args.device)
        found = read(model, rows, text=self.loss.text > 0, head=head, budget=self.budget)
        each = torch.stack([self._loss_of(r, row) for r, row in zip(found, rows, strict=True)])
        loss = each.sum() * self.share(inputs)
        self.require_finite(loss)
        return (loss, {"loss": loss}) if return_outputs else loss

    def _loss_of(self, found: Read, row: Mapping[str, Any]) -> torch.Tensor:
        total = self.loss.text * found.text
        if self.loss.first > 0:
            total = total + self.loss.first * self._ranking(found.identifiers, row)
        if found.passages is not None:
            total = total + self.loss.passages * self._ranking(found.passages, row)
        return total

    def _ranking(self, scores: torch.Tensor, row: Mapping[str, Any]) -> torch.Tensor:
        targets = torch.tensor([row["targets"]], device=scores.device)
        return self.ranking(scores[None], targets, torch.ones_like(targets, dtype=torch.bool))

    def evaluate(self, *_args: Any, **_kwargs: Any) -> dict[str, float]:
        """nDCG of the single-pass order on the held-out lists."""
        was_training = self.model.training
        self.model.eval()
        ndcg = self.evaluate_orders(self.model) if self.evaluate_orders else 0.0
        metrics = {"eval_ndcg": of_the_first(ndcg, self.args.device)}
        self.model.train(was_training)
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def create_model_card(self, *_args: Any, **_kwargs: Any) -> None:
        """None: a checkpoint in the middle of a training wants no card."""

    def _send_telemetry(self) -> None:
        """None."""

    def _get_train_sampler(self, *_args: Any, **_kwargs: Any) -> Any:
        return SequentialSampler(self.train_dataset)  # type: ignore[arg-type]


def _rows(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {"rows": rows}
