"""Lists depend on a query's own candidates; sizes and scores are spread; nothing leaks in."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from dear.data.collections import Collection
from dear.data.labels import Labels
from dear.errors import ConfigError, DataError
from dear.reason.sample import Drawn, SamplePlan, parse_sizes, sample
from dear.reason.select import held_out, normalised
from dear.records import Passage, Query, Ranking

CORPUS = {f"p{i}": Passage(id=f"p{i}", text=f"passage {i} says {i * i}") for i in range(200)}
QUERIES = {f"q{i}": Query(id=f"q{i}", text=f"who says {i}?") for i in range(120)}
JUDGED = {f"q{i}": {f"p{i}": 2, f"p{i + 1}": 0} for i in range(120)}
COLLECTION = Collection.from_parts(
    "numbers",
    CORPUS,
    QUERIES,
    {"train": JUDGED, "test": {"q7": {"p50": 1, "p51": 0}}},
)


def ranking(i: int) -> Ranking:
    ids = tuple(f"p{(i + j) % 200}" for j in range(-5, 55))
    return Ranking(query_id=f"q{i}", passage_ids=ids, scores=tuple(60.0 - j for j in range(60)))


RUN = {f"q{i}": ranking(i) for i in range(120)}


def lists(drawn: Drawn) -> dict[str, list[tuple[str, ...]]]:
    found: dict[str, list[tuple[str, ...]]] = {}
    for one in drawn.questions:
        found.setdefault(one.query.id, []).append(tuple(p.id for p in one.passages))
    return found


def test_a_querys_lists_do_not_depend_on_other_queries() -> None:
    plan = SamplePlan(sizes=(3, 9), per_query=2, seed=4)
    whole = lists(sample(COLLECTION, RUN, plan))
    some = dict(reversed([(q, RUN[q]) for q in list(RUN)[10:20]]))
    assert lists(sample(COLLECTION, some, plan)) == {q: whole[q] for q in some}
    assert all(len(two) == 2 and two[0] != two[1] for two in whole.values())
    assert whole != lists(sample(COLLECTION, RUN, SamplePlan(sizes=(3, 9), per_query=2, seed=5)))


def test_sizes_and_places_are_spread() -> None:
    drawn = sample(COLLECTION, RUN, SamplePlan(sizes=(4, 7), per_query=5))
    sizes = Counter(len(q.passages) for q in drawn.questions)
    assert set(sizes) == {4, 5, 6, 7}
    assert max(sizes.values()) < 1.5 * min(sizes.values())
    at = [[RUN[q.query.id].passage_ids.index(p.id) for p in q.passages] for q in drawn.questions]
    # from the head and the tail of the run, in no order
    assert all(min(places) < 16 and max(places) >= 44 for places in at)
    assert abs(np.mean([np.argmin(places) / (len(places) - 1) for places in at]) - 0.5) < 0.05


def test_labels_are_scores_and_say_what_the_range_is() -> None:
    scores = {q: {p: float(-(n**2)) for n, p in enumerate(RUN[q].passage_ids[:40])} for q in RUN}
    del scores["q3"]
    drawn = sample(COLLECTION, RUN, SamplePlan(sizes=(5, 5)), labels=Labels(scores))
    assert "q3" not in lists(drawn)
    assert not drawn.skipped
    for one in drawn.questions:
        assert one.scores == tuple(scores[one.query.id][p.id] for p in one.passages)
        # a third of the scores lies above -507, where 23 of 40 passages are
        assert sum(s > -507 for s in one.scores) in (1, 2)


def test_queries_without_a_label_are_not_meant() -> None:
    # passage 150 is far from any that query 3 finds
    far = Labels({"q3": {"p150": 1.0}, "q4": dict.fromkeys(RUN["q4"].passage_ids, 1.0)})
    drawn = sample(COLLECTION, RUN, SamplePlan(), labels=far)
    assert set(lists(drawn)) == {"q4"}
    assert drawn.skipped == {"no labels": 1}
    assert sample(COLLECTION, RUN, SamplePlan(), labels=Labels({})).skipped == {"no labels": 120}


def test_one_relevant_passage_is_in_a_list_that_needs_it() -> None:
    drawn = sample(COLLECTION, RUN, SamplePlan(sizes=(2, 3)), judgements=JUDGED, need_relevant=True)
    assert len(drawn.questions) == 120
    assert all(sum(q.grades or ()) == 2 for q in drawn.questions)
    unfound = {"q0": replace(RUN["q50"], query_id="q0")}
    drawn = sample(COLLECTION, unfound, SamplePlan(), judgements=JUDGED, need_relevant=True)
    assert drawn.skipped == {"nothing relevant found": 1}


def test_equal_texts_come_once_and_too_few_are_none() -> None:
    texts = {"a": "One!", "b": "one", "c": "two", "d": "?"}
    corpus = {i: Passage(id=i, text=text) for i, text in texts.items()}
    small = Collection.from_parts("small", corpus, QUERIES, {})
    run = {"q1": Ranking(query_id="q1", passage_ids=tuple("abcd"), scores=(4.0, 3.0, 2.0, 1.0))}
    drawn = sample(small, run, SamplePlan(sizes=(2, 4)))
    assert sorted(lists(drawn)["q1"][0]) == ["a", "c"]
    assert sample(small, run, SamplePlan(sizes=(3, 4))).skipped == {"too few candidates": 1}


def test_nothing_that_is_tested_gets_in() -> None:
    held = held_out([COLLECTION])
    assert held.queries == {"who says 7": "numbers"}
    assert held.passages == {normalised(CORPUS["p50"].text): "numbers"}
    assert set(held_out([COLLECTION], "judged").passages.values()) == {"numbers"}
    assert len(held_out([COLLECTION], "judged").passages) == 2
    assert not held_out([COLLECTION], "none").passages
    drawn = sample(
        *(COLLECTION, RUN, SamplePlan(sizes=(20, 20))),
        leaking_queries=held.queries,
        leaking_passages=held.passages,
    )
    assert drawn.skipped == {"leaks": 1}
    assert "q7" not in lists(drawn)
    assert all("p50" not in ids for two in lists(drawn).values() for ids in two)
    assert drawn.left_out == sum("p50" in r.passage_ids for q, r in RUN.items() if q != "q7")
    every = {normalised(p.text): "x" for p in CORPUS.values()}
    assert sample(COLLECTION, RUN, SamplePlan(), leaking_passages=every).skipped == {"leaks": 120}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What's  it?", "what s it"),
        ("ＡＢＣ １２", "abc 12"),
        ("STRASSE", "straße"),
        ("ﬁsh-and\tchips", "fish and chips"),
        ("e\u0301tude", "étude"),
    ],
)
def test_texts_that_are_the_same(one: str, other: str) -> None:
    assert normalised(one) == normalised(other)


def test_texts_that_are_not() -> None:
    # vowel signs are no punctuation
    assert len({normalised(t) for t in ("कि", "का", "क", "p53", "p 53", "étude", "etude")}) == 7


def test_queries_are_evenly_spread() -> None:
    drawn = sample(COLLECTION, RUN, SamplePlan(queries=10))
    assert list(lists(drawn)) == [f"q{i}" for i in range(0, 120, 12)]


def test_refusals() -> None:
    assert parse_sizes("4-20") == (4, 20)
    assert parse_sizes("8") == (8, 8)
    for wrong in ("", "4-", "x", "4-5-6"):
        with pytest.raises(ConfigError, match="--size"):
            parse_sizes(wrong)
    for plan in ({"sizes": (1, 3)}, {"sizes": (5, 4)}, {"per_query": 0}, {"top_k": 3}):
        with pytest.raises(ConfigError, match="lists"):
            SamplePlan(**plan)  # type: ignore[arg-type]
    alien = {"q1": Ranking(query_id="q1", passage_ids=("zzz",), scores=(1.0,))}
    with pytest.raises(DataError, match="'zzz' is not in the corpus"):
        sample(COLLECTION, alien, SamplePlan())
