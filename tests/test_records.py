"""What a ranking may be, and the order that trec_eval reads it in."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dear.errors import DataError
from dear.records import Ranking

SCORED = st.dictionaries(
    st.text(alphabet="abc1", min_size=1, max_size=3), st.integers(-3, 3), max_size=8
)


@given(SCORED)
def test_sorted_puts_the_highest_score_first_and_ties_by_id_descending(
    scored: dict[str, int],
) -> None:
    found = Ranking.sorted("q", scored, scored.values())
    assert dict(zip(found.passage_ids, found.scores, strict=True)) == scored
    keys = list(zip(found.scores, found.passage_ids, strict=True))
    assert keys == sorted(keys, reverse=True)
    assert Ranking.sorted("q", reversed(scored), list(scored.values())[::-1]) == found


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_score_that_is_not_finite_is_none(bad: float, place: int) -> None:
    scores = [2.0, 1.0, 0.0]
    scores[place] = bad
    problem = f"query 'q', passage 'p{place}': score {bad}"
    with pytest.raises(DataError, match=problem):
        Ranking(query_id="q", passage_ids=("p0", "p1", "p2"), scores=tuple(scores))
    with pytest.raises(DataError, match=problem):
        Ranking.sorted("q", ("p0", "p1", "p2"), scores)


@pytest.mark.parametrize(
    ("ids", "scores", "problem"),
    [
        (("a", "b"), (1.0,), "2 passages, 1 scores"),
        (("a", "b", "a"), (2.0, 1.0, 0.0), "passage 'a' is ranked twice"),
        (("a", "b", "c"), (2.0, 1.0, 1.5), "scores rise; use Ranking.sorted"),
    ],
)
def test_what_is_no_ranking_is_refused(
    ids: tuple[str, ...], scores: tuple[float, ...], problem: str
) -> None:
    with pytest.raises(DataError, match=f"query 'q': {problem}"):
        Ranking(query_id="q", passage_ids=ids, scores=scores)
