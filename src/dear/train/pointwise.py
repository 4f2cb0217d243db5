"""Teacher and student: a one-logit model trained on groups with transformers' Trainer."""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed

from dear.data.collections import Collection, open_collection
from dear.errors import ConfigError, DataError, MissingExtra
from dear.losses import Objective, Term
from dear.models.contract import DEAR, ScoringContract
from dear.models.encoding import PairEncoder
from dear.models.family import locate
from dear.models.loading import (
    HEADS,
    ScoringModel,
    check_length,
    cpu_has_bfloat16,
    load_weights,
    pick_device,
    pick_layers,
    pooled_logits,
    pools_by_mask,
)
from dear.models.scorer import Scorer, collate, token_batches
from dear.recipes import LoraRecipe, LossRecipe, ModelRecipe, Recipe
from dear.records import Candidates, gather, limit_run
from dear.train.checkpoints import begin, finish, is_finished, mark_whole
from dear.train.examples import Example, load_examples, open_run

logger = logging.getLogger(__name__)

CPU_TRAIN_TOKENS = 4096
"""Padded tokens that go through the model at once on a CPU; the numbers do not depend on it."""


@dataclass(frozen=True, slots=True)
class Step:
    """What a progress bar shows. loss: the mean since the last one; ndcg: on dev, or None."""

    done: int
    total: int
    loss: float
    ndcg: float | None = None


@dataclass(frozen=True, slots=True)
class Trained:
    """The outcome of a training run."""

    folder: Path
    pairs: int
    seconds: float
    loss: float
    best_ndcg: float | None
    parameters: int


def objective_of(recipe: LossRecipe) -> Objective:
    """The objective that a recipe names."""
    if recipe.terms:
        return Objective(tuple(Term(t.name, t.weight, t.options) for t in recipe.terms))
    return Objective.dear(recipe.main, recipe.alpha, recipe.temperature)


def contract_of(recipe: Recipe) -> ScoringContract:
    """The contract that the recipe's checkpoint will carry."""
    c = recipe.contract
    return replace(
        DEAR,
        name="dear",
        prompt=c.prompt,
        max_query_tokens=c.max_query_tokens,
        max_passage_tokens=c.max_passage_tokens,
        append_eos=c.append_eos,
    )


def train(
    recipe: Recipe,
    folder: Path,
    *,
    examples: Sequence[Example] | None = None,
    collections: Mapping[str, Collection] | None = None,
    progress: Callable[[Step], None] | None = None,
) -> Trained:
    """Train what `recipe` says and leave a finished checkpoint in `folder`.

    A run that was killed goes on from its last whole checkpoint and ends with the same weights.
    examples: training examples to use instead of sampling those of `recipe.data`.
    collections: opened collections by name.
    Raises ConfigError, DataError; ContractMismatch never (a training fixes the contract).
    """
    objective = objective_of(recipe.loss)
    if examples is None:
        examples = load_examples(
            recipe.data,
            recipe.groups,
            seed=recipe.train.seed,
            with_labels=objective.needs_teacher,
            collections=collections,
        )
    _require_targets(examples, objective)
    resume = begin(folder, recipe, _fingerprint(examples))
    if is_finished(folder):
        raise ConfigError(f"{folder}: this training is finished; remove the folder to repeat it")
    set_seed(recipe.train.seed)  # before a new head is made
    model, tokenizer = _start(recipe.model)
    contract = replace(contract_of(recipe), pooling="mask" if pools_by_mask(model) else "model")
    check_length(model.config, contract, recipe.model.base)
    dev = _dev_candidates(recipe, collections)
    trainer = GroupTrainer(
        model=model,
        args=_arguments(recipe, folder, len(examples)),
        train_dataset=list(examples),
        eval_dataset=[0] if dev is not None else None,
        data_collator=GroupCollator(PairEncoder(tokenizer, contract), tokenizer.pad_token_id),
        callbacks=[_Whole(), _Report(progress)],
    )
    trainer.prepare(objective, tokenizer, contract, dev)
    started = time.perf_counter()
    result = trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    seconds = time.perf_counter() - started
    best = trainer.state.best_metric
    steps = trainer.state.global_step
    trained = Trained(
        folder=folder,
        pairs=_pairs_seen(examples, recipe, steps),
        seconds=seconds,
        loss=float(result.training_loss),
        best_ndcg=None if best is None else float(best),
        parameters=sum(p.numel() for p in model.parameters()),
    )
    metrics = {
        "steps": steps,
        "groups": len(examples),
        "pairs": trained.pairs,
        "seconds": round(seconds, 1),
        "resumed_from_step": 0 if resume is None else int(resume.name.rsplit("-", 1)[1]),
        "training_loss": trained.loss,
        "best_dev_ndcg@10": trained.best_ndcg,
        "loss_curve": [entry for entry in trainer.state.log_history if "loss" in entry],
        "dev_curve": [entry for entry in trainer.state.log_history if "eval_ndcg" in entry],
    }
    finish(folder, _finished_model(model, recipe.model.lora), tokenizer, contract, recipe, metrics)
    return trained


class GroupCollator:
    """Examples to tensors: pairs flattened to (P, T), and a (B, N) index of rows into them.

    Groups of different size are padded in the index, never in the pairs, so a short group or a
    short last batch costs nothing and mixes nothing.
    """

    def __init__(self, encoder: PairEncoder, pad_id: int) -> None:
        self.encoder = encoder
        self.pad_id = pad_id

    def __call__(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        pairs = [(e.query, passage) for e in examples for passage in e.passages]
        ids, mask, types = collate(self.encoder.encode(pairs), pad_id=self.pad_id)
        width = max(len(e.passages) for e in examples)
        rows = torch.zeros(len(examples), width, dtype=torch.int64)
        present = torch.zeros(len(examples), width, dtype=torch.bool)
        grades = torch.zeros(len(examples), width)
        teacher = torch.zeros(len(examples), width)
        first = 0
        for b, example in enumerate(examples):
            n = len(example.passages)
            rows[b, :n] = torch.arange(first, first + n)
            present[b, :n] = True
            grades[b, :n] = torch.tensor(example.group.grades, dtype=torch.float32)
            if example.group.teacher is not None:
                teacher[b, :n] = torch.tensor(example.group.teacher)
            first += n
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "token_type_ids": types,
            "rows": rows,
            "present": present,
            "grades": grades,
            "teacher": teacher,
        }


def flat_logits(model: Any, batch: Mapping[str, torch.Tensor], budget: int | None) -> torch.Tensor:
    """float32 (P,) logits of a batch's pairs.

    budget: padded tokens that go through the model at once, pairs of like length together; None
    for all at once. The result does not depend on it, the time on a CPU does.
    """
    ids, mask, types = batch["input_ids"], batch["attention_mask"], batch["token_type_ids"]
    if budget is None:
        return pooled_logits(model, ids, mask, types)
    lengths = mask.sum(-1).tolist()
    batches = token_batches(lengths, budget)
    parts = []
    for rows in batches:
        width = lengths[rows[0]]
        at = torch.tensor(rows, device=ids.device)
        parts.append(pooled_logits(model, ids[at, :width], mask[at, :width], types[at, :width]))
    order = torch.tensor([row for rows in batches for row in rows], device=ids.device)
    return torch.cat(parts)[order.argsort()]


class GroupTrainer(Trainer):
    """transformers.Trainer whose batch is a batch of groups and whose metric is nDCG@10."""

    def prepare(
        self,
        objective: Objective,
        tokenizer: Any,
        contract: ScoringContract,
        dev: Sequence[tuple[Candidates, Mapping[str, int]]] | None,
    ) -> None:
        # the loss is a mean over groups: let the Trainer divide it by the accumulation steps
        self.model_accepts_loss_kwargs = False
        self.objective = objective
        self.scoring = (tokenizer, contract)
        self.dev = dev
        one_device = self.args.device.type == "cpu" and self.args.world_size == 1
        self.budget = CPU_TRAIN_TOKENS if one_device else None

    def compute_loss(
        self,
        model: Any,
        inputs: Mapping[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        logits = flat_logits(model, inputs, self.budget)
        loss, _parts = self.objective(
            logits[inputs["rows"]], inputs["grades"], inputs["teacher"], inputs["present"]
        )
        if not torch.isfinite(loss):
            raise DataError(
                f"step {self.state.global_step}: the loss is {loss.item()}; lower "
                "train.learning_rate, or set train.autocast=false"
            )
        return (loss, {"logits": logits}) if return_outputs else loss

    def evaluate(self, *_args: Any, **_kwargs: Any) -> dict[str, float]:
        """nDCG@10 of the model in training, over the dev candidates alone."""
        tokenizer, contract = self.scoring
        was_training = self.model.training
        self.model.eval()
        scorer = Scorer(
            ScoringModel(
                model=self.model,
                tokenizer=tokenizer,
                contract=contract,
                name="the model in training",
                revision="",
                device=self.args.device,
            )
        )
        candidates = [c for c, _ in self.dev or ()]
        pairs = [(c.query.text, p.full_text) for c in candidates for p in c.passages]
        with self.autocast_smart_context_manager():
            scores = scorer.score(pairs)
        values, first = [], 0
        for c, grades in self.dev or ():
            mine = scores[first : first + len(c.passages)]
            first += len(c.passages)
            order = np.argsort(-mine, kind="stable")
            values.append(ndcg([grades.get(c.passages[i].id, 0) for i in order], grades.values()))
        self.model.train(was_training)
        metrics = {"eval_ndcg": float(np.mean(values))}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics


def ndcg(ranked: Sequence[int], judged: Any, k: int = 10) -> float:
    """nDCG@k with linear gains, as trec_eval; 0 where nothing is relevant."""

    def gain(grades: Sequence[int]) -> float:
        return sum(max(g, 0) / math.log2(i + 2) for i, g in enumerate(grades[:k]))

    ideal = gain(sorted(judged, reverse=True))
    return gain(ranked) / ideal if ideal else 0.0


class _Whole(TrainerCallback):
    """Marks each checkpoint once everything in it is on disk."""

    def on_save(self, args: Any, state: Any, control: Any, **_kwargs: Any) -> None:
        mark_whole(Path(args.output_dir) / f"checkpoint-{state.global_step}")


class _Report(TrainerCallback):
    """Hands loss and nDCG to whoever shows progress."""

    def __init__(self, progress: Callable[[Step], None] | None) -> None:
        self.progress = progress
        self.loss = math.nan
        self.ndcg: float | None = None

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_kw: Any
    ) -> None:
        self.loss = (logs or {}).get("loss", self.loss)
        self.ndcg = (logs or {}).get("eval_ndcg", self.ndcg)

    def on_step_end(self, args: Any, state: Any, control: Any, **_kwargs: Any) -> None:
        if self.progress is not None:
            self.progress(Step(state.global_step, state.max_steps, self.loss, self.ndcg))


def _start(recipe: ModelRecipe) -> tuple[Any, Any]:
    """Base weights with a one-logit head, cut and wrapped as the recipe says."""
    model, tokenizer, _fresh = load_weights(locate(recipe.base), dtype=recipe.dtype)
    if model.config.num_labels != 1:
        raise ConfigError(f"{recipe.base}: {model.config.num_labels} outputs; a reranker has one")
    if recipe.layers:
        pick_layers(model, recipe.layers)
    if recipe.dropout is not None:
        _set_dropout(model, recipe.dropout)
    if recipe.lora is not None:
        model = _add_lora(model, recipe.lora)
    return model, tokenizer


def _set_dropout(model: Any, rate: float) -> None:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = rate
        elif isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = rate
    for key in ("hidden_dropout_prob", "attention_probs_dropout_prob", "attention_dropout"):
        if hasattr(model.config, key):
            setattr(model.config, key, rate)


def _add_lora(model: Any, recipe: LoraRecipe) -> Any:
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise MissingExtra.of("peft", "train") from None
    names = {name.rsplit(".", 1)[-1] for name, _ in model.named_modules()}
    unknown = sorted(set(recipe.targets) - names)
    if unknown:
        raise ConfigError(f"lora.targets: the model has no {', '.join(unknown)}")
    config = LoraConfig(
        task_type="SEQ_CLS",
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        lora_dropout=recipe.dropout,
        target_modules=list(recipe.targets),
        modules_to_save=[name for name in HEADS if hasattr(model, name)],
    )
    return get_peft_model(model, config)


def _finished_model(model: Any, lora: LoraRecipe | None) -> Any:
    return model.merge_and_unload() if lora is not None and lora.merge else model


def _arguments(recipe: Recipe, folder: Path, examples: int) -> TrainingArguments:
    t = recipe.train
    if t.groups_per_step % t.accumulate:
        raise ConfigError(
            f"train.groups_per_step {t.groups_per_step} is no multiple of accumulate {t.accumulate}"
        )
    device = pick_device("auto")
    autocast = t.autocast and (device.type == "cuda" or cpu_has_bfloat16())
    steps = t.max_steps or math.ceil(examples / t.groups_per_step) * t.epochs
    warmup = math.ceil(t.warmup * steps) if t.warmup < 1 else int(t.warmup)
    strategy = "steps" if t.eval_steps else ("epoch" if recipe.dev else "no")
    save_steps = t.save_steps or t.eval_steps
    return TrainingArguments(
        output_dir=str(folder / "steps"),
        num_train_epochs=t.epochs,
        max_steps=t.max_steps or -1,
        learning_rate=t.learning_rate,
        per_device_train_batch_size=t.groups_per_step // t.accumulate,
        gradient_accumulation_steps=t.accumulate,
        warmup_steps=warmup,
        lr_scheduler_type=t.scheduler,
        weight_decay=t.weight_decay,
        max_grad_norm=t.max_grad_norm,
        gradient_checkpointing=t.gradient_checkpointing,
        bf16=autocast and recipe.model.dtype == "float32",
        use_cpu=device.type == "cpu",
        seed=t.seed,
        data_seed=t.seed,
        eval_strategy=strategy if recipe.dev else "no",
        eval_steps=t.eval_steps or None,
        save_strategy=("steps" if save_steps else "epoch"),
        save_steps=save_steps or 500,
        save_total_limit=2,
        load_best_model_at_end=recipe.dev is not None,
        metric_for_best_model="ndcg" if recipe.dev else None,
        greater_is_better=True if recipe.dev else None,
        logging_steps=t.log_steps,
        report_to=t.report_to,
        remove_unused_columns=False,
        disable_tqdm=True,
        dataloader_num_workers=0,
        dataloader_pin_memory=device.type == "cuda",
    )


def _dev_candidates(
    recipe: Recipe, collections: Mapping[str, Collection] | None
) -> list[tuple[Candidates, Mapping[str, int]]] | None:
    if recipe.dev is None:
        return None
    dev = recipe.dev
    collection = (collections or {}).get(dev.collection) or open_collection(dev.collection)
    judgements = collection.judgements(dev.split)
    run = {q: r for q, r in open_run(collection, dev.run, dev.split).items() if q in judgements}
    # every n-th query, so that a file that is sorted by topic gives no single topic
    step = max(1, len(run) // dev.queries)
    picked = limit_run({q: run[q] for q in list(run)[::step]}, queries=dev.queries, top_k=dev.top_k)
    if not picked:
        raise DataError(f"{dev.collection}, split {dev.split!r}: no judged query in the run")
    queries, corpus = collection.queries(), collection.corpus
    return [(gather(r, queries, corpus), judgements[q]) for q, r in picked.items()]


def _require_targets(examples: Sequence[Example], objective: Objective) -> None:
    if not examples:
        raise DataError("there is nothing to train on")
    if objective.needs_teacher and any(e.group.teacher is None for e in examples):
        raise DataError("the loss reads a teacher's scores, and some groups have none")
    if objective.needs_judgements and not any(max(e.group.grades) > 0 for e in examples):
        raise ConfigError(
            "the loss reads judgements, and no group has a relevant passage; use a loss that "
            "reads the teacher alone (loss.main=[], loss.alpha=1.0)"
        )


def _fingerprint(examples: Sequence[Example]) -> str:
    digest = hashlib.sha256()
    for e in examples:
        digest.update(repr((e.group, e.query, e.passages)).encode())
    return digest.hexdigest()[:16]


def _pairs_seen(examples: Sequence[Example], recipe: Recipe, steps: int) -> int:
    mean = sum(len(e.group) for e in examples) / len(examples)
    per_epoch = math.ceil(len(examples) / recipe.train.groups_per_step)
    return round(mean * len(examples) * steps / per_epoch)
