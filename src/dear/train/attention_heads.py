"""Weights for the attention heads of a causal model, so that reading by attention ranks better.

No weight of the model changes: what is kept is a number for each head, fitted on lists with a
teacher's scores.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dear.artifacts import versions, write_json
from dear.checkpoints.contract import ListwiseContract
from dear.checkpoints.files import TRAINING_FILE, quiet
from dear.digests import Inputs
from dear.errors import ConfigError
from dear.listwise.loading import PEFT_TYPE, HeadWeights, ListModel, fit_heads, load_list_model
from dear.listwise.reader import ListReader
from dear.recipes import HeadsRecipe, HeadsTable
from dear.records import ListExample
from dear.train.checkpoints import claimed
from dear.train.inputs import data_inputs, inputs_of, plan_of
from dear.train.list_reading import list_quality
from dear.train.lists import exact_inputs, load_lists

Progress = Callable[[int, int], None]
"""(lists done, lists in all)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FittedHeads:
    """What fitting did.

    rejected: lists of more passages than max_window.  ndcg, tau: mean over the dev lists, with the
    weights and (plain_*) with every head alike; None without dev lists.
    """

    folder: Path
    lists: int
    rejected: int
    shape: tuple[int, int]
    seconds: float
    ndcg: float | None = None
    tau: float | None = None
    plain_ndcg: float | None = None
    plain_tau: float | None = None


def train_heads(
    recipe: HeadsRecipe,
    folder: Path,
    *,
    examples: Sequence[ListExample] | None = None,
    held_out: Sequence[ListExample] | None = None,
    progress: Progress | None = None,
) -> FittedHeads:
    """Fit what `recipe` says and leave a folder that opens as a listwise model.

    examples, held_out: to use instead of reading those of `recipe.data` and `heads.dev`.
    A list without scores teaches its order. Raises ConfigError (a folder with another training; no
    list that fits; a model whose attention cannot be read), DataError (the data).
    """
    asked = recipe.heads
    data = data_inputs(recipe, {}) if examples is None and held_out is None else {}
    if examples is None:
        examples = load_lists([path for source in recipe.data for path in source.lists])
    if held_out is None:
        held_out = load_lists(asked.dev) if asked.dev else ()
    kept, dev = _short(examples, asked), _short(held_out, asked)
    if not kept:
        raise ConfigError(f"heads: no list of {asked.max_window} passages or fewer")
    made_of = inputs_of(recipe, data, exact_inputs(examples, held_out))
    with claimed(folder, made_of), quiet():
        started = time.perf_counter()
        contract = ListwiseContract(
            max_words=asked.max_words, max_window=asked.max_window, learnt="attention"
        )
        model = load_list_model(recipe.model.base, contract=contract)
        total = len(kept) + 2 * len(dev)
        weights = _fit(model, kept, asked.strength, _shifted(progress, 0, total))
        judged = _judge(model, weights, dev, _shifted(progress, len(kept), total))
        fitted = FittedHeads(
            folder=folder,
            lists=len(kept),
            rejected=len(examples) - len(kept),
            shape=weights.shape,
            seconds=time.perf_counter() - started,
            **judged,
        )
        _save(recipe, folder, contract, weights, made_of, fitted)
    return fitted


def _short(examples: Sequence[ListExample], asked: HeadsTable) -> list[ListExample]:
    return [e for e in examples if len(e.passages) <= asked.max_window]


def _fit(
    model: ListModel, examples: Sequence[ListExample], strength: float, progress: Progress
) -> HeadWeights:
    reading = ListReader(model, reading="attention").in_context
    assert reading is not None
    template = model.contract.template
    paid = []
    for example in examples:
        paid.append(reading.paid(reading.encode(template.render(example.query, example.passages))))
        progress(len(paid), len(examples))
    return fit_heads(paid, [e.scores or _places(e) for e in examples], strength=strength)


def _places(example: ListExample) -> list[float]:
    """The number of passages behind each one."""
    behind = [0.0] * len(example.order)
    for place, passage in enumerate(example.order):
        behind[passage] = float(len(example.order) - 1 - place)
    return behind


def _judge(
    model: ListModel, weights: HeadWeights, dev: Sequence[ListExample], progress: Progress
) -> dict[str, float]:
    """nDCG and tau of the orders that the weights give, and of all heads alike."""
    if not dev:
        return {}
    found: dict[str, float] = {}
    template = model.contract.template
    prompts = [template.render(e.query, e.passages) for e in dev]
    for turn, (label, heads) in enumerate((("", weights), ("plain_", None))):
        context = ListReader(replace(model, heads=heads), reading="attention").in_context
        assert context is not None
        quality = []
        for prompt, example in zip(prompts, dev, strict=True):
            order = context.read(context.encode(prompt)).order or ()
            quality.append(list_quality(order, example.order))
            progress(turn * len(dev) + len(quality), 2 * len(dev))
        for name, values in zip(("ndcg", "tau"), zip(*quality, strict=True), strict=True):
            found[label + name] = statistics.fmean(values)
    return found


def _save(
    recipe: HeadsRecipe,
    folder: Path,
    contract: ListwiseContract,
    weights: HeadWeights,
    made_of: Inputs,
    fitted: FittedHeads,
) -> None:
    base = recipe.model.base
    named = os.path.abspath(base) if Path(base).exists() else base
    write_json(
        folder / "adapter_config.json",
        {"peft_type": PEFT_TYPE, "base_model_name_or_path": named},
    )
    contract.save(folder)
    weights.save(folder)
    metrics = {
        "lists": fitted.lists,
        "rejected": fitted.rejected,
        "seconds": round(fitted.seconds, 1),
        "dev_ndcg": fitted.ndcg,
        "dev_tau": fitted.tau,
        "dev_ndcg_all_heads_alike": fitted.plain_ndcg,
        "dev_tau_all_heads_alike": fitted.plain_tau,
    }
    # last: it says that the folder is whole
    write_json(
        folder / TRAINING_FILE,
        {**plan_of(made_of), "metrics": metrics, "versions": versions()},
    )


def _shifted(progress: Progress | None, before: int, total: int) -> Progress:
    if progress is None:
        return lambda _done, _total: None
    return lambda done, _total: progress(before + done, total)
