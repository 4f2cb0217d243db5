"""Whether a finished training is of what is at hand."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from dear.data.collections import Collection
from dear.digests import Changes, Input, Inputs
from dear.errors import DearError
from dear.recipes import HeadsRecipe, PairRecipe, Recipe
from dear.train.checkpoints import finished_inputs
from dear.train.inputs import changes, data_inputs, inputs_of, is_of_data, opened_collections
from dear.train.lists import exact_inputs as exact_lists
from dear.train.lists import load_lists
from dear.train.pointwise import exact_inputs, needs_teacher, read_dev, read_examples

logger = logging.getLogger(__name__)

Opened = Mapping[str, Collection]


def changes_since(recipe: Recipe, folder: Path, *, opened: Opened | None = None) -> Changes | None:
    """How the inputs of the finished training in `folder` differ from those that `recipe` names
    now; None where no training is finished there.

    Where data differs, the examples are drawn, to see whether any that it has learnt does. What
    cannot be compared, because it is gone or was never written down, is unverified.
    """
    there = finished_inputs(folder)
    if there is None:
        return None
    try:
        collections = opened_collections(recipe, opened)
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


def _exact(recipe: Recipe, opened: Opened) -> dict[str, Input]:
    if isinstance(recipe, PairRecipe):
        return exact_inputs(read_examples(recipe, opened), read_dev(recipe, opened))
    examples = load_lists([path for source in recipe.data for path in source.lists])
    dev = recipe.heads.dev if isinstance(recipe, HeadsRecipe) else recipe.listwise.dev
    return exact_lists(examples, load_lists(dev) if dev else ())
