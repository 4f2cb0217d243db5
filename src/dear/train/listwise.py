"""A listwise model: supervised on permutations, on the identifiers' logits, or on both.

The base is the one that a pointwise adapter sits on, so that one model in memory serves both. A
step's loss is the mean over its lists; neither the batch that a list stands in nor accumulation
changes what is learnt.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from transformers import set_seed

import dear.train as training
from dear.checkpoints.contract import ListwiseContract
from dear.checkpoints.files import quiet, read_config
from dear.errors import ConfigError, DataError, MissingExtra
from dear.listwise.encoding import ListEncoder
from dear.listwise.loading import head_of, side_of
from dear.losses.table import find_loss
from dear.recipes import ListLossRecipe, ListwiseRecipe
from dear.records import ListExample
from dear.scoring.loading import count_parameters
from dear.train.checkpoints import finish
from dear.train.history import best_step, dev_curve, loss_curve, mean_loss
from dear.train.inputs import data_inputs, inputs_of
from dear.train.list_reading import judge_of, list_quality
from dear.train.lists import (
    ListTokenizer,
    ListTokens,
    Rejection,
    exact_inputs,
    load_lists,
    plan,
    row_of,
    tokenise,
    told,
)
from dear.train.processes import (
    claimed_together,
    joined,
    rank,
    wait_for_all,
    world_size,
)
from dear.train.running import in_shards, laid_out, run_to_end, step_of
from dear.train.start import reporters, require_positions, start_list_model, training_arguments
from dear.train.trainer import Step

__all__ = ["TrainedLists", "list_contract_of", "list_quality", "train_lists"]


@dataclass(frozen=True, slots=True)
class TrainedLists:
    """The outcome of a listwise training.

    examples: different ones; rejected: how many were left out, with reasons in `why`.
    lists, tokens: that went through the model, over all epochs.  seconds: of this process alone.
    best_ndcg: on the held-out lists, of the weights in `folder`; None without.
    trained: parameters that changed.
    """

    folder: Path
    examples: int
    rejected: int
    why: str
    lists: int
    tokens: int
    seconds: float
    loss: float
    best_ndcg: float | None
    parameters: int
    trained: int


def list_contract_of(recipe: ListwiseRecipe) -> ListwiseContract:
    """The contract that the recipe's checkpoint will carry. ConfigError: no loss has a weight."""
    lists, loss = recipe.listwise, recipe.listwise.loss
    learnt: Literal["text", "first", "both"] = "both"
    if not loss.text and not loss.first:
        raise ConfigError("listwise.loss: text or first needs a weight above 0")
    if not loss.first or not loss.text:
        learnt = "first" if loss.first else "text"
    return ListwiseContract(
        prompt=lists.prompt,
        max_words=lists.max_words,
        max_window=lists.max_window,
        max_tokens=lists.max_tokens,
        thought=lists.thought,
        learnt=learnt,
    )


def train_lists(
    recipe: ListwiseRecipe,
    folder: Path,
    *,
    examples: Sequence[ListExample] | None = None,
    held_out: Sequence[ListExample] | None = None,
    progress: Callable[[Step], None] | None = None,
) -> TrainedLists:
    """Train what `recipe` says and leave a finished checkpoint in `folder`.

    A run that was killed goes on from its last whole checkpoint and ends with the same weights.
    examples, held_out: to use instead of reading those of `recipe.data` and `listwise.dev`.
    Raises ConfigError (the recipe; a folder with another training; more than half of the examples
    rejected), DataError (the data; another process in the folder), BackendError (a loss or
    gradient that is not finite; the last whole checkpoint is kept).
    """
    with joined():
        return _train_lists(recipe, folder, examples, held_out, progress)


def _train_lists(
    recipe: ListwiseRecipe,
    folder: Path,
    examples: Sequence[ListExample] | None,
    held_out: Sequence[ListExample] | None,
    progress: Callable[[Step], None] | None,
) -> TrainedLists:
    contract, reads = list_contract_of(recipe), _reads(recipe.listwise.loss)
    head = _head(recipe, contract)
    data = data_inputs(recipe, {}) if examples is None and held_out is None else {}
    if examples is None:
        examples = load_lists([path for source in recipe.data for path in source.lists])
    if held_out is None:
        held_out = load_lists(recipe.listwise.dev) if recipe.listwise.dev else ()
    _require_scores(examples, reads)
    made_of = inputs_of(recipe, data, exact_inputs(examples, held_out))
    with claimed_together(folder, made_of) as resume, quiet():
        set_seed(recipe.train.seed)  # before a new adapter is made
        model, tokenizer = start_list_model(recipe.model, on_cpu=in_shards(recipe))
        require_positions(model, contract, recipe.model.base)
        encode = ListTokenizer(ListEncoder(tokenizer), contract, reads)
        schedule = _schedule(recipe, examples, encode)
        learning = sum(p.numel() for p in model.parameters() if p.requires_grad)
        model = laid_out(model, recipe, resume)
        judge = judge_of(encode, held_out)
        trainer = _trainer(recipe, folder, model, tokenizer, schedule, head, judge, progress)
        for callback in reporters(recipe.train, folder, step_of(resume)):
            trainer.add_callback(callback)
        started = time.perf_counter()
        model = run_to_end(
            trainer,
            recipe,
            folder,
            resume,
            lambda: start_list_model(recipe.model, on_cpu=in_shards(recipe))[0],
        )
        curve = dev_curve(trainer.state.log_history)
        trained = TrainedLists(
            folder=folder,
            examples=schedule.examples,
            rejected=schedule.rejected.total(),
            why=told(schedule.rejected),
            lists=len(schedule.rows),
            tokens=sum(map(len, schedule.rows)),
            seconds=time.perf_counter() - started,
            loss=mean_loss(trainer.state.log_history),
            best_ndcg=max(entry["eval_ndcg"] for entry in curve) if curve else None,
            parameters=count_parameters(model),
            trained=learning,
        )
        if rank() == 0:
            if recipe.model.lora is not None and recipe.model.lora.merge:
                model = model.merge_and_unload()
            metrics = _metrics(trained, schedule, trainer.state, step_of(resume))
            finish(folder, model, tokenizer, contract, made_of, metrics)
        wait_for_all()
    return trained


@dataclass(frozen=True, slots=True)
class _ListSchedule:
    """The lists of all steps, in order, from `examples` different ones."""

    rows: Sequence[ListTokens]
    examples: int
    rejected: Counter[Rejection]
    epoch_steps: int


def _schedule(
    recipe: ListwiseRecipe, examples: Sequence[ListExample], encode: ListTokenizer
) -> _ListSchedule:
    epochs, rejected = _tokens(recipe, examples, encode)
    steps, epoch_steps = _steps(recipe, len(epochs[0]))
    rows = plan(
        epochs,
        per_step=recipe.train.groups_per_step,
        passes=recipe.train.accumulate,
        seed=recipe.train.seed,
        steps=steps,
        short_first=recipe.listwise.short_first,
    )
    return _ListSchedule(list(rows), len(epochs[0]), rejected, epoch_steps)


def _metrics(
    trained: TrainedLists, schedule: _ListSchedule, state: Any, resumed_from: int
) -> dict[str, Any]:
    """For the file beside the weights."""
    return {
        "steps": state.global_step,
        "best_step": best_step(state.log_history) or state.global_step,
        "examples": trained.examples,
        "rejected": dict(schedule.rejected),
        "lists": trained.lists,
        "tokens": trained.tokens,
        "trained_parameters": trained.trained,
        "processes": world_size(),
        "seconds": round(trained.seconds, 1),
        "resumed_from_step": resumed_from,
        "training_loss": trained.loss,
        "best_dev_ndcg": trained.best_ndcg,
        "loss_curve": loss_curve(state.log_history),
        "dev_curve": dev_curve(state.log_history),
    }


def _tokens(recipe: ListwiseRecipe, examples: Sequence[ListExample], encode: ListTokenizer) -> Any:
    """(epochs of tokens, as many as the steps read; rejections)."""
    seed = recipe.train.seed if recipe.listwise.shuffle else None
    wanted = recipe.train.max_steps * recipe.train.groups_per_step
    epochs = math.ceil(wanted / len(examples) if wanted else recipe.train.epochs)
    while True:
        made, rejected = tokenise(examples, encode, epochs=1 if seed is None else epochs, seed=seed)
        enough = math.ceil(wanted / len(made[0]))
        if enough <= epochs:
            return (made * epochs if seed is None else made), rejected
        epochs = enough


def _steps(recipe: ListwiseRecipe, examples: int) -> tuple[int, int]:
    """(steps in all, steps in an epoch)."""
    per_step = recipe.train.groups_per_step
    steps = recipe.train.max_steps or math.ceil(examples * recipe.train.epochs / per_step)
    return steps, math.ceil(examples / per_step)


def _trainer(
    recipe: ListwiseRecipe,
    folder: Path,
    model: Any,
    tokenizer: Any,
    schedule: _ListSchedule,
    head: Any,
    judge: Callable[[Any], float] | None,
    progress: Callable[[Step], None] | None,
) -> Any:
    try:
        from datasets import Dataset, Features, Value
        from datasets import Sequence as Items
        from trl.trainer.sft_config import SFTConfig

        trainer_class = training.list_trainer.ListTrainer
    except ImportError:
        raise MissingExtra.of("trl", "listwise") from None
    # all epochs stand in the dataset, each list in its order: to the Trainer they are one
    once = replace(recipe, train=replace(recipe.train, epochs=1.0, max_steps=0))
    plain = training_arguments(once, folder)
    args = SFTConfig(
        **plain.to_dict()  # type: ignore[no-untyped-call]
        | {"max_length": None, "dataset_kwargs": {"skip_prepare_dataset": True}}
    )
    args._n_gpu = plain._n_gpu
    features = Features(
        {
            "input_ids": Items(Value("int32")),
            "answer": Value("int32"),
            "first": Value("int32"),
            "named": Items(Value("int32")),
            "targets": Items(Value("float32")),
            "ends": Items(Value("int32")),
        }
    )
    flow = replace(
        recipe.train,
        eval_steps=recipe.train.eval_steps or schedule.epoch_steps,
        save_steps=recipe.train.save_steps or (0 if judge else schedule.epoch_steps),
    )
    return trainer_class(
        recipe=flow,
        loss=recipe.listwise.loss,
        head=head,
        evaluate_orders=judge,
        progress=progress,
        model=model,
        args=args,
        processing_class=tokenizer,
        train_dataset=Dataset.from_list([row_of(t) for t in schedule.rows], features=features),
    )


def _head(recipe: ListwiseRecipe, contract: ListwiseContract) -> Any:
    """float32 (H,): the base's pointwise head, where the loss on passages reads it."""
    if not recipe.listwise.loss.passages:
        return None
    if not contract.template.ends:
        raise ConfigError(
            f"listwise.loss.passages: the prompt {contract.prompt!r} does not mark where a passage "
            'has been read; use listwise.prompt="pairs"'
        )

    side = side_of(recipe.model.base)
    if side.base.gguf_file is None:
        read_config(side.base)  # a base that is not there is no base without a head
    return head_of(side)[0]


def _reads(loss: ListLossRecipe) -> Literal["judgements", "order", "scores"]:
    return "judgements" if find_loss(loss.first_loss).targets == "judgements" else loss.targets


def _require_scores(examples: Sequence[ListExample], reads: str) -> None:
    without = sum(example.scores is None for example in examples)
    if reads == "scores" and without:
        raise DataError(
            f'listwise.loss.targets is "scores", and {without} of {len(examples)} examples '
            "have none"
        )
