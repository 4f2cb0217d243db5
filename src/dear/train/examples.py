"""From the collections of a recipe to training examples: groups with their texts."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dear.data.collections import Collection, open_collection
from dear.data.formats import read_run
from dear.data.groups import Group, sample_groups
from dear.data.labels import Labels, ensemble, read_labels
from dear.errors import ConfigError, DataError
from dear.recipes import DataRecipe, GroupsRecipe
from dear.records import Passage, Query, Ranking, gather, limit_run

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Example:
    """One group and the texts that it names."""

    group: Group
    query: str
    passages: tuple[str, ...]


def load_examples(
    sources: Sequence[DataRecipe],
    groups: GroupsRecipe,
    *,
    seed: int,
    with_labels: bool,
    collections: Mapping[str, Collection] | None = None,
) -> list[Example]:
    """All groups of all sources, each source in its run's order.

    with_labels: look every passage up in the source's soft labels; a source without labels is a
        ConfigError then.
    collections: opened collections to use instead of opening them by name.
    """
    examples: list[Example] = []
    for source in sources:
        collection = (collections or {}).get(source.collection) or open_collection(
            source.collection
        )
        found = _of_source(source, groups, collection, seed, with_labels)
        if not found:
            raise DataError(
                f"{source.collection}, split {source.split!r}, run {source.run!r}: no query has "
                "both a relevant and another passage to train on"
            )
        logger.info("%s: %d training groups", source.collection, len(found))
        examples += found
    return examples


def examples_of(
    groups: Sequence[Group], queries: Mapping[str, Query], corpus: Mapping[str, Passage]
) -> list[Example]:
    """Groups with their texts looked up by id; DataError names an id that is not there."""
    out = []
    for group in groups:
        ranking = Ranking(
            query_id=group.query_id,
            passage_ids=group.passage_ids,
            scores=(0.0,) * len(group),
        )
        texts = gather(ranking, queries, corpus)
        out.append(Example(group, texts.query.text, tuple(p.full_text for p in texts.passages)))
    return out


def fingerprint(examples: Sequence[Example]) -> str:
    """16 hexadecimal digits over all that training reads, in order."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(repr((example.group, example.query, example.passages)).encode())
    return digest.hexdigest()[:16]


def open_run(collection: Collection, run: str, split: str) -> dict[str, Ranking]:
    """A run from its file, or one of the collection's own by name."""
    if Path(run).is_file():
        return read_run(Path(run))
    return collection.run(run, split)


def _of_source(
    source: DataRecipe,
    recipe: GroupsRecipe,
    collection: Collection,
    seed: int,
    with_labels: bool,
) -> list[Example]:
    run = open_run(collection, source.run, source.split)
    labels = _labels(source) if with_labels else None
    judgements = collection.judgements(source.split) if source.judged else None
    if judgements is not None:
        run = {q: r for q, r in run.items() if q in judgements}
    groups = sample_groups(
        limit_run(run, queries=source.queries),
        judgements=judgements,
        labels=labels,
        size=recipe.size,
        positives=recipe.positives,
        per_query=recipe.per_query,
        negatives=recipe.negatives,
        rank_from=recipe.rank_from,
        rank_to=recipe.rank_to,
        seed=seed,
    )
    examples = examples_of(groups, collection.queries(), collection.corpus)
    # ids of different collections may be the same
    return [
        replace(e, group=replace(e.group, query_id=f"{collection.name}/{e.group.query_id}"))
        for e in examples
    ]


def _labels(source: DataRecipe) -> Labels:
    if not source.labels:
        raise ConfigError(
            f"{source.collection}: the loss reads a teacher's scores, but `labels` names no folder"
        )
    stores = [read_labels(folder) for folder in source.labels]
    if len(stores) == 1 and not source.label_weights:
        return stores[0].scaled(source.label_scale)
    weights = source.label_weights or (1.0,) * len(stores)
    return ensemble(stores, weights).scaled(source.label_scale)
