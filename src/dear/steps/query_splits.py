"""Which queries of a collection teach a distillation and which test it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dear.data.collections import Collection
from dear.errors import DataError
from dear.evaluate.metrics import tell_of_made
from dear.records import MADE, MADE_SPLIT, Judgements, Query
from dear.steps.distilled import stable_hash

FEW = 200
"""Queries of one's own, none judged to train on; of fewer than that others are made."""

FEW_JUDGED = 100
"""Queries judged to train on; fewer teach nothing that a test could show."""


@dataclass(frozen=True, slots=True)
class QuerySplit:
    """Which queries teach and which test; judgements are None where there are none.

    made: the training queries were made from the documents.
    """

    train: dict[str, Query]
    test: dict[str, Query]
    train_judgements: Judgements | None
    test_judgements: Judgements | None
    made: bool


def judged_to_train_on(collection: Collection) -> int:
    """Queries."""
    return len(collection.judgements("train")) if collection.has_judgements("train") else 0


def has_few_queries(collection: Collection) -> bool:
    """Whether there is too little to learn from: no split to train on is judged, and there are
    fewer than FEW queries, if any."""
    if any(collection.has_judgements(split) for split in ("train", MADE_SPLIT)):
        return False
    try:
        return len(collection.queries()) < FEW
    except DataError:
        if collection.splits:  # they are broken or missing, not just not there
            raise
        return True


def split_queries(
    collection: Collection,
    test_queries: int | None,
    made_queries: int,
    *,
    trains: bool = True,
) -> QuerySplit:
    """train and test as the collection has them; else its queries, split by a hash of their ids.

    trains: False where nothing is trained: every query that is not judged to train on tests.
    test_queries, made_queries: a fixed sample where there are more to test with, or made ones to
        train on; None and 0 take all.

    Queries that were made (`dear queries`) are trained on where no others are judged for it; then
    all real ones are left to test with.
    """
    everything = collection.queries()
    judged = {s for s in collection.splits if collection.has_judgements(s)}
    train_split = next((s for s in ("train", MADE_SPLIT) if s in judged), None)
    train_judgements = collection.judgements(train_split) if train_split else None
    test_split = next((s for s in ("test", "dev") if s in judged), None)
    test_judgements = collection.judgements(test_split) if test_split else None
    test_ids = list(test_judgements or (q for q in everything if stable_hash(q) % 10 < 3))
    if train_split == MADE_SPLIT and not test_judgements:
        real = [q for q in everything if not q.startswith(MADE)]
        test_ids = real or test_ids
        taken = set(test_ids)
        train_judgements = {q: g for q, g in (train_judgements or {}).items() if q not in taken}
        tell_of_made(test_ids)
    if not trains:
        test_ids = list(test_judgements or (everything if train_split != MADE_SPLIT else test_ids))
        picked = sample(dict.fromkeys(test_ids), test_queries)
        return _tested(everything, picked, test_judgements, made=train_split == MADE_SPLIT)
    train_ids = list(train_judgements or ())
    if train_split == MADE_SPLIT:
        train_ids = sample(dict.fromkeys(train_ids), made_queries or None)
        train_judgements = {q: (train_judgements or {})[q] for q in train_ids}
    if not train_ids:
        taken = set(test_ids)
        train_ids = [q for q in everything if q not in taken]
    if not train_ids:  # every query is a judged test query: some of them teach, unjudged
        train_ids = [q for q in test_ids if stable_hash(q) % 10 >= 3]
        test_ids = [q for q in test_ids if stable_hash(q) % 10 < 3]
    lost = [q for q in (*train_ids, *test_ids) if q not in everything]
    if lost:
        raise DataError(f"{collection.name}: query {lost[0]!r} is judged, but has no text")
    if not train_ids or not test_ids:
        raise DataError(
            f"{collection.name}: {len(everything)} queries are too few to train on some and test "
            "on others"
        )
    picked = sample(dict.fromkeys(test_ids), test_queries)
    return QuerySplit(
        {q: everything[q] for q in train_ids},
        {q: everything[q] for q in picked},
        train_judgements,
        None if test_judgements is None else {q: test_judgements[q] for q in picked},
        made=train_split == MADE_SPLIT,
    )


def _tested(
    everything: Mapping[str, Query],
    picked: list[str],
    judgements: Judgements | None,
    *,
    made: bool,
) -> QuerySplit:
    """Queries to test with, and none to train on."""
    lost = [q for q in picked if q not in everything]
    if lost:
        raise DataError(f"query {lost[0]!r} is judged, but has no text")
    judged = None if judgements is None else {q: judgements[q] for q in picked}
    return QuerySplit({}, {q: everything[q] for q in picked}, None, judged, made=made)


def sample(ids: Mapping[str, Any], count: int | None) -> list[str]:
    """`count` of the ids, the same ones every time, in the order of their hashes."""
    return sorted(ids, key=lambda q: (stable_hash(q), q))[:count]
