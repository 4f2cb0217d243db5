"""What a training is made from: its recipe, its base, and the data that the recipe names.

Data is known twice. By kind (texts, judgements, run, labels, …), which is quick, and says what has
changed; and exactly, over all that training reads of it, which is only known once the examples are
drawn: what has changed may be nothing that was learnt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dear.data.collections import Collection, open_collection, passages_digest
from dear.data.held_out import held_out_queries
from dear.data.inputs import judgements_input, run_input, texts_input
from dear.data.labels import labels_input
from dear.data.training_rows import open_rows
from dear.digests import Changes, Input, Inputs, file_digests, lines_digest
from dear.recipes import DataRecipe, DevRecipe, HeadsRecipe, PairRecipe, Recipe
from dear.scoring.revisions import base_inputs
from dear.train.lists import list_file

if TYPE_CHECKING:
    from dear.train.trainer import Dev

EXACT = ("examples", "dev examples")
BY_KIND = ("texts", "judgements", "run", "labels", "rows", "lists", "held out", "dev")

Opened = Mapping[str, Collection]


def opened_collections(recipe: Recipe, given: Opened | None = None) -> dict[str, Collection]:
    """Every collection that a recipe names, opened once: what is read of it stays in it."""
    if not isinstance(recipe, PairRecipe):
        return {}
    names = [source.collection for source in recipe.data if source.collection]
    names += [recipe.dev.collection] if recipe.dev is not None else []
    return {name: (given or {}).get(name) or open_collection(name) for name in names}


def inputs_of(recipe: Recipe, data: Mapping[str, Input], exact: Mapping[str, Input]) -> Inputs:
    """Everything. data: by kind, as `data_inputs` has it.  exact: keys are those of EXACT."""
    made_of = {"recipe": Input.of_values(recipe.to_dict(), recipe.name)}
    return Inputs({**made_of, **base_inputs(recipe.model.base), **data, **exact})


def data_inputs(recipe: Recipe, opened: Opened, *, with_labels: bool = True) -> dict[str, Input]:
    """The data that a recipe names, by kind.

    opened: as `opened_collections` gives them.  with_labels: whether labels are read.
    """
    found: dict[str, list[Input]] = {}

    def add(kind: str, one: Input) -> None:
        found.setdefault(kind, []).append(one)

    if not isinstance(recipe, PairRecipe):
        for lists in recipe.data:
            add("lists", _files(lists.lists))
        dev = recipe.heads.dev if isinstance(recipe, HeadsRecipe) else recipe.listwise.dev
        if dev:
            add("dev", _files(dev))
        return {kind: _joined(several) for kind, several in found.items()}
    for source in recipe.data:
        if source.rows:
            _add_rows(source, add)
        else:
            _add_collection(opened[source.collection], source, add)
        if with_labels or recipe.groups.min_margin is not None:
            for folder in source.labels:
                add("labels", labels_input(Path(folder)))
        if source.exclude:
            texts = sorted(held_out_queries(source.exclude))
            add("held out", Input(lines_digest(texts), ", ".join(source.exclude)))
    if recipe.dev is not None:
        add("dev", _dev_data(recipe.dev, opened[recipe.dev.collection]))
    return {kind: _joined(several) for kind, several in found.items()}


def _dev_data(dev: DevRecipe, collection: Collection) -> Input:
    parts: dict[str, Input] = {}
    source = DataRecipe(collection=dev.collection, split=dev.split, run=dev.run)
    _add_collection(collection, source, parts.__setitem__)
    return Input(Inputs(parts).digest, f"{dev.collection}, {dev.split}")


def dev_input(dev: Dev) -> Input:
    """The queries on which a training is evaluated, with their candidates and judgements."""
    texts = lines_digest(
        part
        for one in dev.candidates
        for part in (one.query.id, one.query.text, *(p.full_text for p in one.passages))
    )
    return Input(lines_digest([texts, judgements_input(dev.judgements, "").digest]), "dev")


def changes(there: Inputs, now: Inputs) -> Changes:
    """How `now` differs from what a training was made from, in what it reads.

    Data that has changed by kind, but of which it reads the same, is no change. What `now` knows
    not at all, by kind or exactly, is not compared. Where the base's content is known, it does not
    count where it lies.
    """
    if "base" in there and "base" in now:
        there, now = _without_place(there), _without_place(now)
    if not any(kind in now for kind in BY_KIND):
        there = there.without(BY_KIND)
    exact = [kind for kind in EXACT if kind in now]
    if not exact:
        return there.without(EXACT).changes(now)
    found = there.changes(now)
    data = set(BY_KIND) & set(found.by_kind)
    if all(kind in there and there[kind].digest == now[kind].digest for kind in exact):
        drop = data
    else:  # what has changed says more than that the examples are others
        drop = set(exact) if data else set()
    by_kind = {kind: words for kind, words in found.by_kind.items() if kind not in drop}
    return Changes(by_kind, found.unverified)


def _without_place(inputs: Inputs) -> Inputs:
    recipe = inputs["recipe"].values or {}
    model = {key: value for key, value in recipe.get("model", {}).items() if key != "base"}
    return inputs | {"recipe": Input.of_values({**recipe, "model": model})}


def is_of_data(found: Changes) -> bool:
    """Whether it is data alone that differs, of which the training may read the same."""
    return bool(found.by_kind) and set(found.by_kind) <= {*BY_KIND, *EXACT}


def plan_of(inputs: Inputs) -> dict[str, Any]:
    """As it stands in `plan.json` and `dear_training.json`."""
    recipe = inputs["recipe"].values
    return {"recipe": dict(recipe or {}), "inputs": inputs.without(["recipe"]).to_dict()}


def read_plan(values: Mapping[str, Any]) -> Inputs:
    """What `plan_of` gave; what an earlier version wrote is incomplete."""
    found = Inputs.from_dict(values.get("inputs"))
    if isinstance(values.get("examples"), str):
        found |= {"examples": Input(values["examples"])}
    return found | {"recipe": Input.of_values(values.get("recipe") or {})}


def _add_rows(source: DataRecipe, add: Any) -> None:
    add("rows", Input(open_rows(source.rows, source.split).digest(), source.rows))
    if source.corpus:
        add("texts", Input(passages_digest(source.corpus), source.corpus))
    if source.negatives_from != "rows" and Path(source.run).is_file():
        add("run", run_input(Path(source.run)))


def _add_collection(collection: Collection, source: DataRecipe, add: Any) -> None:
    add("texts", texts_input(collection))
    if source.judged:
        name = f"{collection.name}, {source.split}"
        add("judgements", judgements_input(collection.judgements(source.split), name))
    path = Path(source.run)
    if not path.is_file():
        path = collection.runs(source.split).get(source.run, path)
    if path.is_file():
        add("run", run_input(path, source.run))
    else:
        add("run", run_input(collection.run(source.run, source.split), source.run))


def _files(names: Sequence[str]) -> Input:
    paths = [list_file(name) for name in names]
    return Input(lines_digest(file_digests(paths)), ", ".join(names))


def _joined(several: Sequence[Input]) -> Input:
    if len(several) == 1:
        return several[0]
    names = ", ".join(dict.fromkeys(one.name for one in several))
    return Input(lines_digest(one.digest for one in several), names)
