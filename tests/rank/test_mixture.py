"""Mixtures: a weighted sum of z-scores, its ties, its deadline; the ranker in the box."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dear import Candidates, Passage, Query, Reranker
from dear.data.z_scores import z_scores
from dear.errors import ConfigError
from dear.rank.mixture import MixtureRanker, first_stage_scores
from dear.rank.opening import RankerSpec, open_ranker
from dear.rank.ranker import reordered
from dear.records import Ranking, RankingCost

BEES = [
    "A hive is a box in which bees live.",
    "Python opens a file with open().",
    "The waggle dance of the honey bee tells others the direction and distance of flowers.",
]


class Fixed:
    """A ranker whose scores are known; with a deadline, of the first `scored` candidates."""

    def __init__(self, name: str, scores: Sequence[float], scored: int | None = None) -> None:
        self.name, self.scores, self.scored = name, scores, scored

    def rank_candidates(self, candidates: Any, **limits: Any) -> Iterator[Ranking]:
        for c in candidates:
            known = self.scores[: self.scored] if limits.get("deadline") else self.scores
            order = np.argsort(-np.array(known), kind="stable").tolist()
            yield reordered(
                c,
                order,
                [known[at] for at in order],
                complete=len(known) == len(c.passages),
                cost=RankingCost(pairs=len(known)),
            )


def candidates(first: Sequence[float], *, unscored: bool = False) -> Candidates:
    passages = tuple(Passage(id=f"p{at}", text=f"text {at}") for at in range(len(first)))
    query = Query(id="q", text="text")
    return Candidates(query=query, passages=passages, scores=tuple(first), unscored=unscored)


eighths = st.integers(-80, 80).map(lambda n: n / 8)


@given(rows=st.lists(st.tuples(eighths, eighths, eighths), min_size=1, max_size=9))
def test_scores_are_weighted_sums_of_z_scores(rows: list[tuple[float, float, float]]) -> None:
    a, b, first = (np.array(column) for column in zip(*rows, strict=True))
    parts = [(Fixed("a", a.tolist()), 0.2), (Fixed("b", b.tolist()), 0.6)]
    (found,) = MixtureRanker(parts, 0.3).rank_candidates([candidates(first.tolist())])
    expected = 0.2 * z_scores(a) + 0.6 * z_scores(b) + 0.3 * z_scores(first)
    np.testing.assert_allclose(found.scores, expected[list(found.positions)], atol=1e-12)
    assert list(found.scores) == sorted(found.scores, reverse=True)
    assert found.complete
    assert found.cost is not None
    assert found.cost.pairs == len(rows)


def test_ties_keep_the_order_of_the_first_part() -> None:
    parts = [(Fixed("a", [1.0, 3.0, 2.0]), 1.0), (Fixed("b", [5.0, 5.0, 5.0]), 1.0)]
    mixture = MixtureRanker(parts)
    (found,) = mixture.rank_candidates([candidates([0, 0, 0])])
    assert found.passage_ids == ("p1", "p2", "p0")
    assert mixture.name == "1 a + 1 b"
    assert MixtureRanker(parts[:1], 0.5).name == "a + 0.5 first stage"


def test_a_deadline_mixes_what_all_parts_scored() -> None:
    parts = [
        (Fixed("a", [1.0, 2.0, 3.0, 4.0], scored=3), 1.0),
        (Fixed("b", [2.0, 1.0, 9.0, 9.0], scored=2), 0.1),
    ]
    given = candidates([4, 3, 2, 1])
    (found,) = MixtureRanker(parts).rank_candidates([given], deadline=time.monotonic())
    assert found.passage_ids == ("p1", "p0", "p2", "p3")
    assert not found.complete
    assert found.cost is not None
    assert found.cost.pairs == 2


def test_without_a_first_stage_bm25_over_the_candidates_takes_its_place() -> None:
    passages = tuple(Passage(id="same", text=text) for text in BEES)
    query = Query(id="q", text="which bees live in a box")
    given = Candidates(query=query, passages=passages, scores=(9.0, 8.0, 7.0), unscored=True)
    assert first_stage_scores(given).argmax() == 0
    assert first_stage_scores(given)[1] == 0
    assert first_stage_scores(candidates([3.0, 5.0])).tolist() == [3.0, 5.0]
    nothing = Candidates(query=Query(id="q", text="?"), passages=passages, scores=(1, 2, 3))
    assert first_stage_scores(nothing).tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"mixture": {}}, "names of models, each with its weight"),
        ({"mixture": {"minilm-l6": "much"}}, "the weight of minilm-l6 is 'much'"),
        ({"mixture": {"minilm-l6": -1}}, "the weight must be 0 or more"),
        ({"mixture": {"minilm-l6": 1}, "model": "minilm-l6"}, "no other model beside it"),
    ],
)
def test_mixtures_that_are_none(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RankerSpec.of(spec)
    with pytest.raises(ConfigError, match="one ranker or more"):
        MixtureRanker([])


@pytest.fixture(scope="module")
def box() -> Reranker:
    return Reranker("built-in")


def test_the_box_ranks(box: Reranker) -> None:
    found = box.rank("how do bees tell others where food is", BEES)
    assert found.passage_ids == ("2", "0", "1")
    assert box.name == "built-in"
    assert [read is not None and read.tokens > 5 for read in found.read] == [True] * 3
    again = box.rank("how do bees tell others where food is", BEES[::-1])
    assert again.passage_ids == ("0", "2", "1")
    np.testing.assert_array_equal(again.scores, found.scores)
    with pytest.raises(ConfigError, match="has no score for a pair"):
        box.score([("a", "b")])


def test_the_box_takes_one_passage_equal_ones_and_none(box: Reranker) -> None:
    assert box.rank("bees", BEES[:1]).scores == (0.0,)
    same = box.rank("bees", [BEES[0]] * 3)
    assert same.passage_ids == ("0", "1", "2")
    assert same.scores == (0.0, 0.0, 0.0)
    assert len(box.rank("bees", [])) == 0
    assert box.rank("", ["", "a"]).complete


def test_the_box_is_what_its_parts_are(box: Reranker) -> None:
    """A TOML table of the same models, typed by a user, ranks alike."""
    spec = RankerSpec.of("built-in")
    assert spec.mixture is not None
    own = open_ranker({"mixture": dict(spec.mixture), "fuse": spec.fuse})
    query = Query(id="q", text="where do bees live")
    passages = tuple(Passage(id=str(at), text=text) for at, text in enumerate(BEES))
    given = Candidates(query=query, passages=passages, scores=(3.0, 1.0, 2.0))
    (mine,), (theirs,) = own.rank_candidates([given]), box.rank_candidates([given])
    assert mine == theirs
