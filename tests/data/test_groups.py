"""Groups: sampled by id and seed alone, and what may be in them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dear.data.groups import NEGATIVES, Group, Tally, sample_groups
from dear.data.labels import Labels
from dear.errors import ConfigError, DataError
from dear.records import Judgements, Ranking, Run

IDS = [f"p{i}" for i in range(30)]


def ranking(query_id: str, ids: Sequence[str]) -> Ranking:
    return Ranking(
        query_id=query_id, passage_ids=tuple(ids), scores=tuple(map(float, range(len(ids), 0, -1)))
    )


def labels_for(run: Run, judgements: Judgements | None = None) -> Labels:
    """A score for every pair that could be asked for, by id alone."""
    wanted = {
        q: dict.fromkeys([*r.passage_ids, *(judgements or {}).get(q, {})]) for q, r in run.items()
    }
    return Labels({q: {p: float(hash_of(q, p)) for p in ids} for q, ids in wanted.items()})


def hash_of(query_id: str, passage_id: str) -> int:
    return sum(ord(c) * 7**i for i, c in enumerate(query_id + passage_id)) % 101


@st.composite
def worlds(draw: st.DrawFn) -> tuple[dict[str, Ranking], dict[str, dict[str, int]]]:
    """A run of up to 4 queries, and judgements that overlap it or do not."""
    run, judgements = {}, {}
    for q in range(draw(st.integers(1, 4))):
        name = f"q{q}"
        ids = draw(st.lists(st.sampled_from(IDS), min_size=1, max_size=20, unique=True))
        run[name] = ranking(name, ids)
        judgements[name] = draw(st.dictionaries(st.sampled_from(IDS), st.integers(-1, 3)))
    return run, judgements


kinds = st.sampled_from(sorted(NEGATIVES))


@given(world=worlds(), size=st.integers(2, 9), negatives=kinds, seed=st.integers(0, 3))
def test_positives_first_then_passages_that_are_not_relevant(
    world: tuple[dict[str, Ranking], dict[str, dict[str, int]]],
    size: int,
    negatives: str,
    seed: int,
) -> None:
    run, judgements = world
    positives = max(1, size // 3)
    groups = sample_groups(
        run,
        judgements=judgements,
        size=size,
        positives=positives,
        negatives=negatives,
        rank_from=2,
        rank_to=12,
        seed=seed,
    )
    for group in groups:
        grades = judgements[group.query_id]
        relevant = [p for p in group.passage_ids if grades.get(p, 0) > 0]
        assert group.passage_ids[: len(relevant)] == tuple(relevant)
        available = sorted((g for g in grades.values() if g > 0), reverse=True)
        assert [grades[p] for p in relevant] == available[:positives]
        assert group.grades == tuple(max(0, grades.get(p, 0)) for p in group.passage_ids)
        rest = group.passage_ids[len(relevant) :]
        pool = [p for p in run[group.query_id].passage_ids[1:12] if grades.get(p, 0) <= 0]
        assert set(rest) <= set(pool)
        assert len(rest) == min(size - len(relevant), len(pool))
        assert len(set(group.passage_ids)) == len(group) >= 2
    # and no query that could give one was left out
    for query_id, found in run.items():
        grades = judgements[query_id]
        can = any(g > 0 for g in grades.values()) and any(
            grades.get(p, 0) <= 0 for p in found.passage_ids[1:12]
        )
        assert can == any(g.query_id == query_id for g in groups)


@given(world=worlds(), negatives=kinds, per_query=st.integers(1, 3), seed=st.integers(0, 3))
def test_a_group_depends_on_its_own_query_alone(
    world: tuple[dict[str, Ranking], dict[str, dict[str, int]]],
    negatives: str,
    per_query: int,
    seed: int,
) -> None:
    run, judgements = world
    labels = labels_for(run, judgements)

    def sample(part: Run, grades: Judgements) -> list[Group]:
        return sample_groups(
            part,
            judgements=grades,
            labels=labels,
            size=4,
            per_query=per_query,
            negatives=negatives,
            seed=seed,
        )

    together = sample(run, judgements)
    alone = [
        group
        for q in reversed(run)
        # the order in which a query's judgements are listed means nothing either
        for group in sample({q: run[q]}, {q: dict(reversed(judgements[q].items()))})
    ]
    assert sorted(alone, key=repr) == sorted(together, key=repr)
    for group in together:
        assert group.teacher == tuple(labels.of(group.query_id, group.passage_ids).tolist())


def test_groups_are_the_same_in_every_process() -> None:
    code = """
from dear.data.groups import sample_groups
from dear.records import Ranking
ids = tuple(f"p{i}" for i in range(20))
run = {q: Ranking(query_id=q, passage_ids=ids, scores=(0.0,) * 20) for q in ("a", "b")}
print(sample_groups(run, judgements={q: {"p3": 1, "x": 1, "y": 1} for q in run}, seed=4))
"""
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1
    assert "p3" in outputs.pop()


def test_another_seed_draws_another_group() -> None:
    run = {"q": ranking("q", IDS)}
    drawn = {sample_groups(run, negatives="random", seed=s)[0].passage_ids for s in range(20)}
    assert len(drawn) == 20


def test_per_query_draws_anew() -> None:
    run = {"q": ranking("q", IDS)}
    groups = sample_groups(run, negatives="random", per_query=5, size=4)
    assert len(groups) == 5
    assert len({g.passage_ids for g in groups}) == 5
    # more groups leave the first ones as they were
    assert sample_groups(run, negatives="random", per_query=2, size=4) == groups[:2]


def test_every_positive_is_drawn_sooner_or_later() -> None:
    run = {"q": ranking("q", IDS[:10])}
    judgements = {"q": {"a": 1, "b": 1, "c": 1, "d": 0}}
    groups = sample_groups(run, judgements=judgements, size=3, per_query=30)
    assert {g.passage_ids[0] for g in groups} == {"a", "b", "c"}


def test_without_judgements_all_passages_come_from_the_run() -> None:
    run = {"q": ranking("q", IDS[:10])}
    (group,) = sample_groups(run, size=6)
    assert set(group.passage_ids) <= set(IDS[:10])
    assert len(group) == 6
    assert group.grades == (0,) * 6
    assert group.teacher is None


def test_an_unjudged_query_gives_no_group_where_judgements_are_used() -> None:
    run = {"q": ranking("q", IDS), "r": ranking("r", IDS)}
    assert [g.query_id for g in sample_groups(run, judgements={"r": {"p1": 1}})] == ["r"]


def test_ranks_count_from_one_and_both_ends_are_in() -> None:
    run = {"q": ranking("q", IDS)}
    (group,) = sample_groups(run, size=20, rank_from=3, rank_to=6)
    assert sorted(group.passage_ids) == sorted(IDS[2:6])


def test_hardest_is_first_by_the_teacher_else_by_the_run() -> None:
    run = {"q": ranking("q", IDS[:6])}
    judgements = {"q": {"x": 1, "p0": 2}}
    (by_run,) = sample_groups(run, judgements=judgements, size=3, negatives="hardest")
    assert by_run.passage_ids == ("p0", "p1", "p2")
    labels = Labels({"q": {"p0": 9.0, "p1": 1, "p2": 2, "p3": 5, "p4": 4, "p5": 3, "x": 0}})
    (by_teacher,) = sample_groups(
        run, judgements=judgements, labels=labels, size=3, negatives="hardest"
    )
    assert by_teacher.passage_ids == ("p0", "p3", "p4")


@given(
    scores=st.lists(st.integers(-1000, 1000), min_size=8, max_size=60, unique=True),
    count=st.integers(2, 8),
    seed=st.integers(0, 5),
)
def test_spread_spans_the_range_of_the_teachers_scores(
    scores: list[int], count: int, seed: int
) -> None:
    """Of an even spread, each of `count` equal parts of the range gives one passage; where the
    scores leave a part empty, the nearest free one stands in."""
    ids = [f"p{i}" for i in range(len(scores))]
    labels = Labels({"q": dict(zip(ids, map(float, scores), strict=True))})
    (group,) = sample_groups(
        {"q": ranking("q", ids)}, labels=labels, size=count, negatives="spread", seed=seed
    )
    assert group.teacher is not None
    high, low = max(scores), min(scores)
    width = (high - low) / count
    picked = np.array(group.teacher)
    for part in range(count):
        top, bottom = high - part * width, high - (part + 1) * width
        inside = [s for s in scores if bottom <= s <= top]
        if len(inside) >= count:  # enough that others, passing by, can not have taken them all
            assert ((picked >= bottom - width) & (picked <= top + width)).any()


@given(seed=st.integers(0, 50))
def test_spread_over_even_scores_takes_one_of_each_part(seed: int) -> None:
    ids = [f"p{i}" for i in range(80)]
    labels = Labels({"q": {p: float(i) for i, p in enumerate(ids)}})
    (group,) = sample_groups({"q": ranking("q", ids)}, labels=labels, size=8, seed=seed)
    assert group.teacher is not None
    parts = [min(int(score / 79 * 8), 7) for score in group.teacher]
    # an aim near a border may round into the next part
    assert all(
        abs(part - expected) <= 1 for part, expected in zip(parts, range(7, -1, -1), strict=True)
    )
    assert list(group.teacher) == sorted(group.teacher, reverse=True)


def test_spread_takes_the_few_high_scores_that_random_would_miss() -> None:
    ids = [f"p{i}" for i in range(100)]
    scores = {p: 10.0 if i < 3 else i / 100 for i, p in enumerate(ids)}
    run = {"q": ranking("q", ids)}
    for seed in range(10):
        (group,) = sample_groups(run, labels=Labels({"q": scores}), size=8, seed=seed)
        assert group.teacher is not None
        assert max(group.teacher) == 10.0


@given(
    world=worlds(),
    positives=st.integers(1, 3),
    margin=st.integers(0, 60),
    negatives=kinds,
    seed=st.integers(0, 3),
)
def test_a_negative_scores_the_margin_below_every_positive(
    world: tuple[dict[str, Ranking], dict[str, dict[str, int]]],
    positives: int,
    margin: int,
    negatives: str,
    seed: int,
) -> None:
    run, judgements = world
    labels = labels_for(run, judgements)
    size, tally = 6, Tally()
    groups = sample_groups(
        run,
        judgements=judgements,
        labels=labels,
        size=size,
        positives=positives,
        min_margin=float(margin),
        negatives=negatives,
        seed=seed,
        tally=tally,
    )
    close = 0
    for group in groups:
        assert group.teacher is not None
        count = sum(grade > 0 for grade in group.grades)
        lowest = min(group.teacher[:count])
        pool = [
            p for p in run[group.query_id].passage_ids if judgements[group.query_id].get(p, 0) <= 0
        ]
        far = [p for p in pool if labels.scores[group.query_id][p] <= lowest - margin]
        assert all(score <= lowest - margin for score in group.teacher[count:])
        # and what is far enough is not left out
        assert len(group) - count == min(size - count, len(far))
        close += len(pool) - len(far)
    assert tally.too_close >= close


def test_equal_scores_are_no_trouble() -> None:
    labels = Labels({"q": dict.fromkeys(IDS, 1.0)})
    (group,) = sample_groups({"q": ranking("q", IDS)}, labels=labels, size=5)
    assert len(set(group.passage_ids)) == 5


@pytest.mark.parametrize("negatives", sorted(NEGATIVES))
def test_a_short_pool_gives_a_short_group(negatives: str) -> None:
    run = {"q": ranking("q", ["a", "b"]), "r": ranking("r", ["a"]), "s": ranking("s", ["a"])}
    judgements = {"q": {"x": 1}, "r": {"a": 1}, "s": {"y": 2}}
    groups = sample_groups(run, judgements=judgements, size=8, negatives=negatives)
    assert {g.query_id: set(g.passage_ids) for g in groups} == {
        "q": {"x", "a", "b"},
        "s": {"y", "a"},  # r has its only candidate relevant
    }
    assert sample_groups({"s": run["s"]}, size=8, negatives=negatives) == []  # one alone


@pytest.mark.parametrize(
    ("negatives", "missing", "total"),
    [("random", 1, 4), ("hardest", 7, 11), ("spread", 7, 11)],
)
def test_missing_labels_are_counted(negatives: str, missing: int, total: int) -> None:
    """The sampled pairs must have a label, and those that are chosen by it."""
    run = {"q": ranking("q", IDS[:10])}
    judgements = {"q": {"x": 1}}
    known = dict.fromkeys(IDS[:4], 1.0)
    if negatives == "random":
        (group,) = sample_groups(run, judgements=judgements, size=4, negatives="random")
        known = dict.fromkeys(group.passage_ids[1:], 1.0)
    with pytest.raises(DataError, match=f"^{missing} of {total} pairs .*--judged"):
        sample_groups(
            run, judgements=judgements, labels=Labels({"q": known}), size=4, negatives=negatives
        )


def test_labels_of_what_is_not_sampled_are_not_asked_for() -> None:
    run = {"q": ranking("q", IDS)}
    (group,) = sample_groups(run, size=4, negatives="random")
    labels = Labels({"q": dict.fromkeys(group.passage_ids, 2.0)})
    (labelled,) = sample_groups(run, size=4, negatives="random", labels=labels)
    assert labelled.passage_ids == group.passage_ids
    assert labelled.teacher == (2.0,) * 4
    narrow = Labels({"q": dict.fromkeys(IDS[:5], 1.0)})
    assert sample_groups(run, size=4, negatives="spread", labels=narrow, rank_to=5)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"negatives": "spred"}, "did you mean 'spread'"),
        ({"size": 1}, "size >= 2"),
        ({"positives": 0}, "1 <= positives < size"),
        ({"positives": 8}, "1 <= positives < size"),
        ({"per_query": 0}, "per_query >= 1"),
        ({"rank_from": 0}, "ranks 0 to 100"),
        ({"rank_from": 5, "rank_to": 4}, "ranks 5 to 4"),
    ],
)
def test_what_makes_no_sense_is_an_error(options: dict[str, object], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        sample_groups({}, **options)  # type: ignore[arg-type]
