"""Train against test on real collections: the few queries that stand in both are found."""

from __future__ import annotations

from pathlib import Path

import pytest

from dear.data.collections import Collection
from dear.reason.sample import SamplePlan, sample
from dear.reason.select import held_out, normalised


@pytest.mark.parametrize(
    ("name", "leaking", "relevant"), [("scifact", 2, 283), ("nfcorpus", 4, 3095)]
)
def test_train_queries_that_are_test_queries(
    shared_data: Path, name: str, leaking: int, relevant: int
) -> None:
    collection = Collection.from_folder(shared_data / name, name)
    held = held_out([collection])
    train = collection.queries("train").values()
    assert sum(normalised(q.text) in held.queries for q in train) == leaking
    assert len(held.passages) == relevant
    drawn = sample(
        *(collection, collection.run("bm25", "train"), SamplePlan(queries=200)),
        leaking_queries=held.queries,
        leaking_passages=held.passages,
    )
    assert drawn.questions
    for question in drawn.questions:
        assert normalised(question.query.text) not in held.queries
        assert not any(normalised(p.full_text) in held.passages for p in question.passages)


def test_the_two_years_of_deep_learning_share_no_query(shared_data: Path) -> None:
    held = held_out([Collection.from_folder(shared_data / "dl21", "dl21")])
    assert held.queries
    other = Collection.from_folder(shared_data / "dl19", "dl19")
    assert not any(normalised(q.text) in held.queries for q in other.queries("test").values())
    # and a test query is one in any year
    own = held_out([other])
    assert all(normalised(q.text) in own.queries for q in other.queries("test").values())
