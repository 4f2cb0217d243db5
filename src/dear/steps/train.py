"""Training: a recipe to a checkpoint, in this process or in several that are started."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dear.artifacts import check_folder
from dear.data.collections import Collection
from dear.digests import Changes, Input, Inputs
from dear.errors import ConfigError, DearError
from dear.recipes import HeadsRecipe, ListwiseRecipe, PairRecipe, Recipe
from dear.steps.options import LaunchOptions, TrainOptions
from dear.steps.progress import OnProgress, Watch, unwatched
from dear.train.attention_heads import FittedHeads, train_heads
from dear.train.checkpoints import finished_inputs, is_finished, require_same
from dear.train.inputs import changes, data_inputs, inputs_of, is_of_data, opened_collections
from dear.train.launching import Launch, launch, require_gpus
from dear.train.lists import exact_inputs as exact_lists
from dear.train.lists import load_lists
from dear.train.listwise import TrainedLists, train_lists
from dear.train.pointwise import Step, Trained, exact_inputs, needs_teacher, read_dev, read_examples
from dear.train.pointwise import train as train_groups

__all__ = ["FittedHeads", "TrainResult", "Trained", "TrainedLists", "train", "train_in_processes"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainResult:
    """trained: None where the training was finished already, and nothing was done.
    unverified: inputs that the finished one does not name."""

    trained: Trained | TrainedLists | FittedHeads | None
    unverified: tuple[str, ...] = ()


def train(options: TrainOptions, *, watch: Watch = unwatched) -> TrainResult:
    """Train what the recipe says and leave a checkpoint; go on where a training was stopped.

    Nothing is done where the training in the folder is finished and of the same inputs;
    ConfigError where it is of others.
    """
    recipe, folder = options.load_recipe(), options.output
    if is_finished(folder):
        found = _changes_since(recipe, folder)
        require_same(folder, found)
        return TrainResult(trained=None, unverified=found.unverified)
    check_folder(folder)
    if isinstance(recipe, HeadsRecipe):
        with watch("reading", "lists") as report:
            return TrainResult(trained=train_heads(recipe, folder, progress=report))
    with watch("training", "steps") as report:
        told = _on_step(report)
        if isinstance(recipe, ListwiseRecipe):
            return TrainResult(trained=train_lists(recipe, folder, progress=told))
        return TrainResult(trained=train_groups(recipe, folder, progress=told))


def train_in_processes(
    options: TrainOptions, launching: LaunchOptions, *, flags: Sequence[str] = ()
) -> int | None:
    """Run `dear train` in the processes that `launching` asks for: the exit status, or None where
    the training is for this process (`train`), or finished already.

    flags: of the command line, for each of them.  The first process prints its summary.
    """
    recipe = options.load_recipe()
    if is_finished(options.output):
        return None
    check_folder(options.output)
    places = _places(recipe.kind, launching)
    if places is None:
        return None
    words = ["train", options.recipe, "--output", str(options.output)]
    words += [word for change in options.changes for word in ("--set", change)]
    return launch([*words, *flags], places)


def _places(kind: str, launching: LaunchOptions) -> Launch | None:
    """The processes to start, or None to train in this one."""
    if not launching.is_asked:
        return None
    if "WORLD_SIZE" in os.environ:
        raise ConfigError("a launcher has started this process: leave out --gpus and --processes")
    if kind in ("heads", "biencoder"):
        raise ConfigError(f"a {kind} model trains in one process")
    if launching.gpus is not None:
        require_gpus(launching.gpus)
    places = Launch(
        processes=launching.gpus or launching.processes or 0,
        nodes=launching.nodes,
        node_rank=launching.node_rank,
        address=launching.main_address,
        on_cpu=launching.gpus is None,
    )
    places.environments()
    return None if places.processes * places.nodes == 1 and launching.gpus else places


def _on_step(report: OnProgress) -> Callable[[Step], None]:
    before: list[int] = []

    def show(step: Step) -> None:
        if not before:
            before.append(step.done - 1)
        loss = f"loss {step.loss:.4f}" if step.loss == step.loss else ""
        dev = "" if step.ndcg is None else f"dev nDCG@10 {step.ndcg:.4f}"
        report(step.done, step.total, before=before[0], extra=" ".join(filter(None, (loss, dev))))

    return show


def _changes_since(recipe: Recipe, folder: Path) -> Changes:
    """How the inputs of the finished training in `folder` differ from those that `recipe` names.

    Where data differs, the examples are drawn, to see whether any that it has learnt does. What
    cannot be compared, because it is gone or was never written down, is unverified.
    """
    there = finished_inputs(folder)
    assert there is not None  # is_finished has seen it
    try:
        collections = opened_collections(recipe, None)
        data = data_inputs(recipe, collections, with_labels=_reads_labels(recipe))
        found = changes(there, inputs_of(recipe, data, {}))
    except DearError as error:
        logger.warning("%s: its inputs cannot be compared: %s", folder, error)
        now = Inputs({"recipe": Input.of_values(recipe.to_dict())}, complete=False)
        found = there.changes(now)
        return Changes(found.by_kind, tuple(kind for kind in there if kind != "recipe"))
    if not is_of_data(found):
        return found
    try:
        return changes(there, inputs_of(recipe, data, _exact(recipe, collections)))
    except DearError as error:  # labels of other texts, for one
        logger.warning("%s", error)
        return found


def _reads_labels(recipe: Recipe) -> bool:
    return isinstance(recipe, PairRecipe) and needs_teacher(recipe)


def _exact(recipe: Recipe, collections: Mapping[str, Collection]) -> dict[str, Input]:
    if isinstance(recipe, PairRecipe):
        return exact_inputs(read_examples(recipe, collections), read_dev(recipe, collections))
    examples = load_lists([path for source in recipe.data for path in source.lists])
    dev = recipe.heads.dev if isinstance(recipe, HeadsRecipe) else recipe.listwise.dev
    return exact_lists(examples, load_lists(dev) if dev else ())
