"""From the collections and rows of a recipe to training examples: groups with their texts."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from dear.data.collections import Collection, open_collection, open_passages, passages_digest
from dear.data.example_table import (
    IN_MEMORY,
    Example,
    ExampleTable,
    Joined,
    fingerprint,
    keep,
    totals_of,
)
from dear.data.formats import read_run
from dear.data.groups import Group, GroupPlan, TeacherScores, sample_groups
from dear.data.held_out import SameText, held_out_queries, normalised, tell_of_tests
from dear.data.inputs import run_input
from dear.data.label_texts import LabelCheck
from dear.data.labels import (
    Labels,
    LabelsOnDisk,
    ensemble,
    labels_input,
    open_labels,
    read_labels,
)
from dear.data.row_groups import RowSampling
from dear.data.training_rows import open_rows
from dear.digests import lines_digest
from dear.errors import ConfigError, DataError
from dear.recipes import DataRecipe, GroupsRecipe
from dear.records import Judgements, Passage, Query, Ranking, Run, gather, limit_run

__all__ = [
    "Example",
    "ExampleTable",
    "draw_groups",
    "examples_of",
    "fingerprint",
    "load_examples",
    "open_run",
    "totals_of",
]

logger = logging.getLogger(__name__)


def load_examples(
    sources: Sequence[DataRecipe],
    groups: GroupsRecipe,
    *,
    seed: int,
    with_labels: bool,
    collections: Mapping[str, Collection] | None = None,
    tables: Path | None = None,
    in_memory: int = IN_MEMORY,
) -> Sequence[Example]:
    """All groups of all sources, each source in the order of its run or its rows.

    with_labels: look every passage up in the source's soft labels; a source without labels is a
        ConfigError then, unless its rows bring a teacher's scores themselves.
    collections: opened collections to use instead of opening them by name.
    tables: the folder for examples of rows that are more than `in_memory`; the cache where None.
    """
    parts: list[Sequence[Example]] = []
    for source in sources:
        if source.rows:
            parts.append(_of_rows(source, groups, seed, with_labels, tables, in_memory))
            continue
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
        parts.append(found)
    if all(isinstance(part, list) for part in parts):
        return [example for part in parts for example in part]
    return parts[0] if len(parts) == 1 else Joined(parts)


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


def open_run(collection: Collection, run: str, split: str) -> dict[str, Ranking]:
    """A run from its file, or one of the collection's own by name."""
    if Path(run).is_file():
        return read_run(Path(run))
    return collection.run(run, split)


def draw_groups(
    run: Run,
    recipe: GroupsRecipe,
    *,
    judgements: Judgements | None,
    labels: TeacherScores | None,
    corpus: Mapping[str, Passage],
    seed: int,
) -> list[Group]:
    """`sample_groups` as a recipe's table says."""
    same = _same_text(run, judgements, corpus) if recipe.drop_same_text and judgements else None
    plan = asdict(_plan(recipe, seed))
    return sample_groups(run, judgements=judgements, labels=labels, same_text=same, **plan)


def _plan(recipe: GroupsRecipe, seed: int) -> GroupPlan:
    values = asdict(recipe)
    del values["drop_same_text"]
    return GroupPlan(**values, seed=seed)


def _of_source(
    source: DataRecipe,
    recipe: GroupsRecipe,
    collection: Collection,
    seed: int,
    with_labels: bool,
) -> list[Example]:
    run: Run = open_run(collection, source.run, source.split)
    needs_labels = with_labels or recipe.min_margin is not None
    check = _checked(source, collection.name) if needs_labels else None
    judgements = collection.judgements(source.split) if source.judged else None
    if judgements is not None:
        run = {q: r for q, r in run.items() if q in judgements}
    if source.exclude:
        run = _without_tests(run, collection, held_out_queries(source.exclude))
    run = limit_run(run, queries=source.queries)
    tell_of_tests(collection, run, f"exclude = [{json.dumps(source.collection)}] leaves them out")
    groups = draw_groups(
        run,
        recipe,
        judgements=judgements,
        labels=None
        if check is None
        else check.over_collection(collection.queries(), collection.corpus),
        corpus=collection.corpus,
        seed=seed,
    )
    if check is not None:
        check.require()
    examples = examples_of(groups, collection.queries(), collection.corpus)
    # ids of different collections may be the same
    return [
        replace(e, group=replace(e.group, query_id=f"{collection.name}/{e.group.query_id}"))
        for e in examples
    ]


def _same_text(
    run: Run, judgements: Judgements, corpus: Mapping[str, Passage]
) -> dict[str, frozenset[str]]:
    """Query id → candidates that are a relevant passage under another id."""
    found = {}
    for query_id, ranking in run.items():
        relevant = {p for p, grade in judgements.get(query_id, {}).items() if grade > 0}
        same = SameText([corpus[p].full_text for p in relevant if p in corpus])
        found[query_id] = frozenset(
            p
            for p in ranking.passage_ids
            if p not in relevant and p in corpus and corpus[p].full_text in same
        )
    return found


def _without_tests(run: Run, collection: Collection, tests: Mapping[str, str]) -> Run:
    queries = collection.queries()
    kept = {
        q: r for q, r in run.items() if q not in queries or normalised(queries[q].text) not in tests
    }
    _report(collection.name, len(run), {"of a test collection": len(run) - len(kept)})
    return kept


def _of_rows(
    source: DataRecipe,
    recipe: GroupsRecipe,
    seed: int,
    with_labels: bool,
    tables: Path | None,
    in_memory: int,
) -> Sequence[Example]:
    rows = open_rows(source.rows, source.split)
    needs_teacher = with_labels or recipe.min_margin is not None
    tests = held_out_queries(source.exclude)
    key = {
        "rows": rows.digest(),
        "source": asdict(source),
        "groups": asdict(recipe),
        "seed": seed,
        "teacher": [labels_input(Path(f)).digest for f in source.labels] if needs_teacher else None,
        "tests": lines_digest(sorted(tests)),
        "corpus": passages_digest(source.corpus),
        "run": run_input(Path(source.run)).digest if Path(source.run).is_file() else "",
    }

    def draw(counts: dict[str, Any]) -> Any:
        from_run = source.negatives_from != "rows"
        sampling = RowSampling(
            name=rows.name,
            plan=_plan(recipe, seed),
            corpus=open_passages(source.corpus, tables) if source.corpus else None,
            labels=_checked(source, "") if needs_teacher and source.labels else None,
            needs_teacher=needs_teacher,
            scale=source.label_scale,
            run=_run_file(source) if from_run else None,
            negatives=source.negatives_from,
            held_out=tests,
            drop_same_text=recipe.drop_same_text,
            limit=source.queries,
        )
        return sampling(rows.read(), counts)

    found, counts = keep(key, draw, folder=tables, in_memory=in_memory)
    left_out = {f"asked by {name}": n for name, n in counts["held_out"].items()}
    left_out["without a negative"] = counts["without_negatives"]
    _report(rows.name, counts["rows"], left_out)
    if not found:
        raise DataError(f"{source.rows}: no row of {counts['rows']} gives a group to train on")
    logger.info("%s: %d training groups (%s)", rows.name, len(found), counts)
    return found


def _run_file(source: DataRecipe) -> Run:
    if not Path(source.run).is_file():
        raise ConfigError(f"{source.rows}: run {source.run!r}: beside rows it must be a run's file")
    return read_run(Path(source.run))


def _report(name: str, total: int, left_out: Mapping[str, int]) -> None:
    reasons = ", ".join(f"{n:,} {why}" for why, n in left_out.items() if n)
    if reasons:
        logger.warning("%s: of %s queries left out: %s", name, f"{total:,}", reasons)


def _checked(source: DataRecipe, collection: str) -> LabelCheck:
    """The labels of a source, to be compared with the texts that they are looked up for.

    collection: the name of the one at hand; "" for rows, which have none.
    """
    if not source.labels:
        raise ConfigError(
            f"{collection}: the loss reads a teacher's scores, but `labels` names no folder"
        )
    folders = [Path(folder) for folder in source.labels]
    labels: Labels | LabelsOnDisk
    if len(folders) == 1 and not source.label_weights:
        labels = open_labels(folders[0], source.label_scale)
    else:
        weights = source.label_weights or (1.0,) * len(folders)
        labels = ensemble(list(map(read_labels, folders)), weights).scaled(source.label_scale)
    return LabelCheck(
        labels, source.labels, collection or f"rows:{source.rows}", known=bool(collection)
    )
