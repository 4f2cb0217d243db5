"""Teacher and student: a one-logit model trained on groups with transformers' Trainer.

One step's loss is the mean over its groups of each group's own loss; a loss itself is a mean over
a group's queries, passages or pairs. So every group weighs the same, and neither the batch that a
group stands in nor gradient accumulation changes what is learnt.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import set_seed

from dear.checkpoints.contract import DEAR, ScoringContract
from dear.checkpoints.files import quiet
from dear.checkpoints.heads import pools_by_mask
from dear.data.collections import Collection, open_collection
from dear.digests import Input, Inputs
from dear.errors import ConfigError, DataError
from dear.losses import Objective
from dear.recipes import DevRecipe, PairRecipe
from dear.records import every_nth, gather, limit_run
from dear.scoring.encoding import PairEncoder
from dear.scoring.loading import check_length, count_parameters
from dear.train.batches import GroupCollator
from dear.train.biencoder import (
    ContrastiveTrainer,
    TextCollator,
    contrastive_objective,
    start_biencoder,
    write_modules,
)
from dear.train.checkpoints import finish
from dear.train.examples import Example, fingerprint, load_examples, open_run, totals_of
from dear.train.history import best_step, dev_curve, loss_curve, mean_loss
from dear.train.inputs import data_inputs, dev_input, inputs_of, opened_collections
from dear.train.processes import (
    claimed_together,
    joined,
    rank,
    wait_for_all,
    world_size,
)
from dear.train.running import laid_out, run_to_end, step_of
from dear.train.start import objective_of, reporters, start_model, training_arguments
from dear.train.trainer import Dev, GroupTrainer, Scoring, Step

__all__ = ["Step", "Trained", "contract_of", "train"]


@dataclass(frozen=True, slots=True)
class Trained:
    """The outcome of a training run.

    pairs: that went through the model, over all epochs.  seconds: of this process alone.
    loss: the mean over all steps.  best_ndcg: nDCG@10 on dev of the weights in `folder`.
    """

    folder: Path
    pairs: int
    seconds: float
    loss: float
    best_ndcg: float | None
    parameters: int


def contract_of(recipe: PairRecipe) -> ScoringContract:
    """The contract that the recipe's checkpoint will carry."""
    c = recipe.contract
    return replace(
        DEAR,
        prompt=c.prompt,
        max_query_tokens=c.max_query_tokens,
        max_passage_tokens=c.max_passage_tokens,
        append_eos=c.append_eos,
    )


def train(
    recipe: PairRecipe,
    folder: Path,
    *,
    examples: Sequence[Example] | None = None,
    inputs: Mapping[str, Input] | None = None,
    collections: Mapping[str, Collection] | None = None,
    progress: Callable[[Step], None] | None = None,
) -> Trained:
    """Train what `recipe` says and leave a finished checkpoint in `folder`.

    A run that was killed goes on from its last whole checkpoint and ends with the same weights.
    Started in several processes (torchrun, `dear train --gpus`), they share the work, and the
    first one writes.
    With `recipe.dev` the weights are those of the evaluation with the highest nDCG@10, else the
    last ones.
    examples: training examples to use instead of sampling those of `recipe.data`.
    inputs: what those were made from, by kind, to be written down.
    collections: opened collections by name.
    Raises ConfigError (the recipe; a folder with another training), DataError (the data; another
    process in the folder), BackendError (a loss or gradient that is not finite; the last whole
    checkpoint is kept).
    """
    with joined():
        return _train(recipe, folder, examples, inputs, collections, progress)


def _train(
    recipe: PairRecipe,
    folder: Path,
    examples: Sequence[Example] | None,
    inputs: Mapping[str, Input] | None,
    collections: Mapping[str, Collection] | None,
    progress: Callable[[Step], None] | None,
) -> Trained:
    biencoder = recipe.kind == "biencoder"
    objective = contrastive_objective(recipe) if biencoder else objective_of(recipe.loss)
    if examples is None:
        collections = opened_collections(recipe, collections)
        inputs = data_inputs(recipe, collections, with_labels=objective.needs_teacher)
        examples = read_examples(recipe, collections)
    _require_targets(examples, objective)
    dev = read_dev(recipe, collections)
    made_of = inputs_of(recipe, inputs or {}, exact_inputs(examples, dev))
    with claimed_together(folder, made_of) as resume, quiet():
        make = _contrastive_trainer if biencoder else _trainer
        trainer = make(recipe, folder, examples, objective, dev, progress, resume)
        started = time.perf_counter()
        model = run_to_end(trainer, recipe, folder, resume, lambda: start_model(recipe.model)[0])
        seconds = time.perf_counter() - started
        history, steps = trainer.state.log_history, trainer.state.global_step
        curve = dev_curve(history)
        trained = Trained(
            folder=folder,
            pairs=_pairs_seen(examples, recipe, steps),
            seconds=seconds,
            loss=mean_loss(history),
            best_ndcg=max(entry["eval_ndcg"] for entry in curve) if curve else None,
            parameters=count_parameters(model),
        )
        metrics = {
            "steps": steps,
            "best_step": best_step(history) or steps,
            "groups": len(examples),
            "pairs": trained.pairs,
            "processes": world_size(),
            "seconds": round(seconds, 1),
            "resumed_from_step": step_of(resume),
            "training_loss": trained.loss,
            "best_dev_ndcg@10": trained.best_ndcg,
            "loss_curve": loss_curve(history),
            "dev_curve": curve,
        }
        if rank() == 0:
            _finish(recipe, folder, model, trainer.scoring, made_of, metrics)
        wait_for_all()
    return trained


def read_examples(
    recipe: PairRecipe, collections: Mapping[str, Collection] | None = None
) -> Sequence[Example]:
    """The training examples of a recipe's data."""
    return load_examples(
        recipe.data,
        recipe.groups,
        seed=recipe.train.seed,
        with_labels=needs_teacher(recipe),
        collections=collections,
    )


def needs_teacher(recipe: PairRecipe) -> bool:
    """Whether the recipe's loss reads labels."""
    return objective_of(recipe.loss).needs_teacher


def exact_inputs(examples: Sequence[Example], dev: Dev | None) -> dict[str, Input]:
    """All that training reads of the data; see dear.train.inputs."""
    found = {"examples": Input(fingerprint(examples))}
    return found if dev is None else {**found, "dev examples": dev_input(dev)}


def _finish(
    recipe: PairRecipe,
    folder: Path,
    model: Any,
    scoring: Scoring,
    made_of: Inputs,
    metrics: dict[str, Any],
) -> None:
    biencoder, lora = recipe.kind == "biencoder", recipe.model.lora
    if lora is not None and lora.merge:
        model = model.merge_and_unload()
    if biencoder:
        write_modules(folder, recipe.contract.max_passage_tokens, model.config.hidden_size)
    contract = None if biencoder else scoring.contract
    finish(folder, model, scoring.tokenizer, contract, made_of, metrics)


def _trainer(
    recipe: PairRecipe,
    folder: Path,
    examples: Sequence[Example],
    objective: Objective,
    dev: Dev | None,
    progress: Callable[[Step], None] | None,
    resume: Path | None,
) -> GroupTrainer:
    args = training_arguments(recipe, folder)
    set_seed(recipe.train.seed)  # before a new head is made
    model, tokenizer = start_model(recipe.model)
    contract = replace(contract_of(recipe), pooling="mask" if pools_by_mask(model) else "model")
    check_length(model.config, contract, recipe.model.base)
    return GroupTrainer(
        recipe=recipe.train,
        objective=objective,
        scoring=Scoring(tokenizer, contract),
        dev=dev,
        progress=progress,
        callbacks=reporters(recipe.train, folder, step_of(resume)),
        model=laid_out(model, recipe, resume),
        args=args,
        train_dataset=examples,
        data_collator=GroupCollator(PairEncoder(tokenizer, contract), tokenizer.pad_token_id),
    )


def _contrastive_trainer(
    recipe: PairRecipe,
    folder: Path,
    examples: Sequence[Example],
    objective: Objective,
    _dev: Dev | None,
    progress: Callable[[Step], None] | None,
    resume: Path | None,
) -> GroupTrainer:
    if world_size() > 1:
        raise ConfigError("a biencoder trains in one process: its negatives are those of one pass")
    args = training_arguments(recipe, folder)
    set_seed(recipe.train.seed)
    model, tokenizer = start_biencoder(recipe)
    return ContrastiveTrainer(
        recipe=recipe.train,
        objective=objective,
        scoring=Scoring(tokenizer, contract_of(recipe)),
        dev=None,
        progress=progress,
        callbacks=reporters(recipe.train, folder, step_of(resume)),
        model=model,
        args=args,
        train_dataset=examples,
        data_collator=TextCollator(tokenizer, recipe.contract.max_passage_tokens),
    )


def read_dev(recipe: PairRecipe, collections: Mapping[str, Collection] | None = None) -> Dev | None:
    """What training is evaluated on, where the recipe names it."""
    if recipe.dev is None:
        return None
    return _dev(recipe.dev, collections)


def _dev(recipe: DevRecipe, collections: Mapping[str, Collection] | None) -> Dev:
    collection = (collections or {}).get(recipe.collection) or open_collection(recipe.collection)
    judgements = collection.judgements(recipe.split)
    run = open_run(collection, recipe.run, recipe.split)
    run = {q: r for q, r in run.items() if q in judgements}
    picked = limit_run({q: run[q] for q in every_nth(run, recipe.queries)}, top_k=recipe.top_k)
    if not picked:
        raise DataError(f"{recipe.collection}, split {recipe.split!r}: no judged query in the run")
    queries, corpus = collection.queries(), collection.corpus
    return Dev(
        tuple(gather(ranking, queries, corpus) for ranking in picked.values()),
        {q: judgements[q] for q in picked},
    )


def _require_targets(examples: Sequence[Example], objective: Objective) -> None:
    if not examples:
        raise DataError("there is nothing to train on")
    totals = totals_of(examples)
    if objective.needs_teacher:
        without = totals.without_teacher
        if without:
            raise DataError(
                f"the loss reads a teacher's scores, and {without} of {len(examples)} groups "
                "have none"
            )
    if objective.needs_judgements and not totals.with_relevant:
        raise ConfigError(
            "the loss reads judgements, and no group has a relevant passage; use a loss that "
            "reads the teacher alone (loss.main=[], loss.alpha=1.0)"
        )


def _pairs_seen(examples: Sequence[Example], recipe: PairRecipe, steps: int) -> int:
    mean = totals_of(examples).pairs / len(examples)
    per_epoch = -(-len(examples) // recipe.train.groups_per_step)
    return round(mean * len(examples) * steps / per_epoch)
