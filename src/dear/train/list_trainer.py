"""trl.SFTTrainer for lists: the loss on the answer alone, ranking losses beside it, nDCG and tau on
held-out lists."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.data import SequentialSampler
from transformers import PrinterCallback, TrainerCallback
from trl.trainer.sft_trainer import SFTTrainer

from dear.checkpoints.heads import bare_model, takes
from dear.losses.table import find_loss
from dear.recipes import ListLossRecipe, TrainRecipe
from dear.records import ListExample
from dear.scoring.batching import token_batches
from dear.train.lists import ListTokenizer, ListTokens, row_of, tokenise
from dear.train.parallel import StepTrainer
from dear.train.processes import of_the_first
from dear.train.trainer import Flow, Step


def list_quality(found: Sequence[int], best: Sequence[int]) -> tuple[float, float]:
    """(nDCG, Kendall's tau) of an order against the one that it should be.

    The gain of a passage is the number of those that should stand behind it.
    """
    from scipy.stats import kendalltau

    count = len(best)
    gains = {passage: count - 1 - rank for rank, passage in enumerate(best)}
    discounts = 1 / np.log2(np.arange(2, count + 2))
    ideal = float(np.arange(count)[::-1] @ discounts)
    ndcg = float(np.array([gains[p] for p in found]) @ discounts) / ideal
    ranks = {passage: rank for rank, passage in enumerate(found)}
    tau = kendalltau([ranks[p] for p in best], range(count)).statistic
    return ndcg, float(tau)


def judge_of(
    encode: ListTokenizer, held_out: Sequence[ListExample]
) -> Callable[[Any], float] | None:
    """Mean nDCG of single-pass orders on the held-out lists."""
    if not held_out:
        return None
    in_order = ListTokenizer(encode.encoder, encode.contract, "order")
    tokens, _ = tokenise(held_out, in_order, epochs=1, seed=None)

    def judge(model: Any) -> float:

        best = [_best(t) for t in tokens[0]]
        found = orders(model, tokens[0])
        return float(np.mean([list_quality(f, b)[0] for f, b in zip(found, best, strict=True)]))

    return judge


def _best(tokens: ListTokens) -> list[int]:
    return sorted(range(len(tokens.targets)), key=lambda i: -tokens.targets[i])


CPU_LIST_TOKENS = 2048
"""Padded tokens that go through the model at once on a CPU, and tokens of the lists whose
activations are held at once; the numbers do not depend on it. A list that is longer goes alone,
which wants no mask."""

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Read:
    """What one forward pass says about one example.

    identifiers: float32 (N,) logits of the identifiers' first tokens where the first is chosen.
    text: the mean cross-entropy of the answer's tokens in nats, float32; 0 where it was not asked.
    passages: float32 (N,) scores of a pointwise head where each passage has been read; None
        without a head.
    """

    identifiers: torch.Tensor
    text: torch.Tensor
    passages: torch.Tensor | None = None


def read(
    model: Any,
    rows: Rows,
    *,
    text: bool,
    head: torch.Tensor | None = None,
    budget: int | None = None,
) -> list[Read]:
    """One Read for each row (of `row_of`), in order.

    text: also measure the answers.  head: float32 (H,), a pointwise model's, to score passages.
    budget: padded tokens in one forward pass, lists of like length together; None for all at once.
    The vocabulary's logits are made for the answer alone, the identifiers' in float32.
    """
    # the last token is only predicted, never read
    lengths = [len(row["input_ids"]) - 1 for row in rows]
    batches = token_batches(lengths, budget) if budget else [list(range(len(rows)))]
    found: dict[int, Read] = {}
    for batch in batches:
        found |= zip(batch, _read_batch(model, [rows[i] for i in batch], text, head), strict=True)
    return [found[i] for i in range(len(rows))]


def _read_batch(
    model: Any, rows: Rows, text: bool, scorer: torch.Tensor | None = None
) -> list[Read]:
    inner = bare_model(model)
    device = inner.get_input_embeddings().weight.device
    # places counted from the end, for padding on the left
    back = [row["answer"] - row["first"] for row in rows]
    kept = max(row["answer"] for row in rows) if text else max(back)
    width = max(len(row["input_ids"]) for row in rows) - 1
    ids = torch.zeros(len(rows), width, dtype=torch.int64)
    mask = torch.zeros(len(rows), width, dtype=torch.int64)
    for b, row in enumerate(rows):
        shown = row["input_ids"][:-1]
        ids[b, width - len(shown) :] = torch.tensor(shown)
        mask[b, width - len(shown) :] = 1
    ids, mask = ids.to(device), mask.to(device)
    options: dict[str, Any] = {"logits_to_keep": kept, "use_cache": False}
    if takes(inner, "position_ids"):
        options["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
    head = inner.get_output_embeddings()
    states: list[torch.Tensor] = []
    every: list[torch.Tensor] = []
    hooks = [head.register_forward_pre_hook(lambda _, given: states.append(given[0]))]
    if scorer is not None:
        body = getattr(inner, inner.base_model_prefix)
        hooks.append(body.register_forward_hook(lambda *given: every.append(given[2][0])))
    try:
        logits = model(input_ids=ids, attention_mask=mask, **options).logits
    finally:
        for hook in hooks:
            hook.remove()
    out = []
    for b, row in enumerate(rows):
        named = torch.tensor(row["named"], device=device)
        identifiers = _in_float32(head, states[0][b, kept - back[b]], named)
        value = identifiers.new_zeros(())
        if text:
            answer = torch.tensor(row["input_ids"][-row["answer"] :], device=device)
            value = F.cross_entropy(logits[b, kept - row["answer"] :].float(), answer)
        scores = None
        if scorer is not None:
            before = width - len(row["input_ids"]) + 1
            with torch.autocast(device.type, enabled=False):
                scores = every[0][b, [before + i for i in row["ends"]]].float() @ scorer
        out.append(Read(identifiers, value, scores))
    return out


def _in_float32(head: Any, state: torch.Tensor, named: torch.Tensor) -> torch.Tensor:
    """(N,) logits of some tokens; bfloat16 would turn close ones into ties."""
    with torch.autocast(state.device.type, enabled=False):
        logits: torch.Tensor = head.weight[named].float() @ state.float()
        bias = getattr(head, "bias", None)
        return logits if bias is None else logits + bias[named].float()


def orders(
    model: Any, tokens: Sequence[ListTokens], *, budget: int | None = CPU_LIST_TOKENS
) -> list[tuple[int, ...]]:
    """The order that a single pass gives each list: places in the prompt, best first."""
    with torch.inference_mode():
        found = read(model, [row_of(t) for t in tokens], text=False, budget=budget)
    return [tuple((-r.identifiers).argsort(stable=True).tolist()) for r in found]


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
