"""Fusion of runs, against numbers worked out by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dear.errors import ConfigError, DataError
from dear.records import Passage, Query, Ranking
from dear.retrieve.bm25 import DEFAULTS
from dear.retrieve.hybrid import Hybrid, reciprocal_rank_fusion, weigh_scores
from dear.retrieve.table import RetrieverSpec, Setting, open_retriever


def run(**scores: dict[str, float]) -> dict[str, Ranking]:
    return {q: Ranking.sorted(q, found.keys(), found.values()) for q, found in scores.items()}


A = run(q={"a": 9.0, "b": 8.0, "c": 1.0}, only_a={"x": 1.0})
B = run(q={"c": 0.9, "a": 0.8, "d": 0.7})


def test_reciprocal_ranks_by_hand() -> None:
    fused = reciprocal_rank_fusion([A, B])
    assert list(fused) == ["q", "only_a"]
    assert fused["q"].passage_ids == ("a", "c", "b", "d")
    assert fused["q"].scores == pytest.approx(
        (1 / 61 + 1 / 62, 1 / 63 + 1 / 61, 1 / 62, 1 / 63), rel=1e-12
    )
    assert fused["only_a"].scores == (1 / 61,)
    assert reciprocal_rank_fusion([A, B], 2)["q"] == fused["q"].top(2)
    assert reciprocal_rank_fusion([A], k=0)["q"].scores == (1, 1 / 2, 1 / 3)


def test_equal_ranks_fall_to_the_greater_id() -> None:
    fused = reciprocal_rank_fusion([run(q={"a": 2.0}), run(q={"b": 1.0})])
    assert fused["q"].passage_ids == ("b", "a")


def test_weighted_scores_by_hand() -> None:
    """Of a, b, c, d the first run has 9, 8, 1 and, as the lowest, 1; the second .8, .7, .9, .7."""
    fused = weigh_scores([A, B], (1.0, 3.0))["q"]
    mean, deviation = 4.75, (sum((x - 4.75) ** 2 for x in (9, 8, 1, 1)) / 4) ** 0.5
    mean_b = 0.775
    deviation_b = (sum((x - mean_b) ** 2 for x in (0.8, 0.7, 0.9, 0.7)) / 4) ** 0.5
    expected = {
        i: (a - mean) / deviation + 3 * (b - mean_b) / deviation_b
        for i, a, b in (("a", 9, 0.8), ("b", 8, 0.7), ("c", 1, 0.9), ("d", 1, 0.7))
    }
    assert dict(zip(fused.passage_ids, fused.scores, strict=True)) == pytest.approx(expected)
    assert fused.passage_ids == ("c", "a", "b", "d")
    assert weigh_scores([A, B], (1.0, 0.0), 2)["q"].passage_ids == ("a", "b")
    assert weigh_scores([A, B], (1.0, 1.0))["only_a"].scores == (0.0,)
    with pytest.raises(DataError, match="1 weights for 2 runs"):
        weigh_scores([A, B], (1.0,))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("dens:minilm-l6",), "no retriever 'dens'; did you mean 'dense'"),
        (("dense",), "name a model, as in dense:MODEL"),
        (("bm25:minilm-l6",), "bm25 takes no model"),
        (("hybrid",), "two parts or more"),
        (("hybrid", "bm25"), "two parts or more"),
        (("hybrid", "bm25,hybrid"), "two parts or more"),
        (("hybrid", "bm25,bm25"), "named twice"),
        (("bm25", "bm25,splade:x"), "parts and weights are for hybrid"),
        (("bm25", None, "1"), "parts and weights are for hybrid"),
        (("hybrid", "bm25,dense:x", "1"), "1 weights for 2 parts"),
        (("hybrid", "bm25,dense:x", "1,-1"), "0 or more"),
        (("hybrid", "bm25,dense:x", "0,0"), "not all of them 0"),
        (("hybrid", "bm25,dense:x", "1,nan"), "0 or more"),
        (("hybrid", "bm25,dense:x", "1;2"), "numbers with commas between"),
    ],
)
def test_what_is_no_retriever(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RetrieverSpec.of(*words)


def test_names_are_read() -> None:
    spec = RetrieverSpec.of("hybrid", "bm25, dense:a/b,splade:c", "1,.5,2")
    assert [part.name for part in spec.leaves] == ["bm25", "dense:a/b", "splade:c"]
    assert spec.weights == (1.0, 0.5, 2.0)
    assert RetrieverSpec.of("dense:C:/model").model == "C:/model"


class Part:
    """Finds few, and scores all."""

    def __init__(self, name: str, scores: dict[str, float]) -> None:
        self.name, self.of = name, scores
        self.inputs: dict[str, Any] = {}
        self.values: dict[str, Any] = {}

    def search(self, queries: Any, top_k: int = 100, *, progress: Any = None) -> Any:
        best = dict(sorted(self.of.items(), key=lambda one: -one[1])[:2])
        return run(**dict.fromkeys(queries, best))

    def score_passages(self, queries: Any, passages: Any) -> Any:
        return {q: {i: self.of[i] for i in ids} for q, ids in passages.items()}


def test_every_part_scores_what_any_part_found() -> None:
    a = Part("a", {"w": 9.0, "x": 8.0, "y": 7.9, "z": 0.0})
    b = Part("b", {"y": 5.0, "z": 4.0, "w": -5.0, "x": 3.9})
    asked = {"q": Query(id="q", text="?")}
    fused = Hybrid([a, b], (1.0, 1.0)).search(asked)["q"]
    whole = weigh_scores([run(q=a.of), run(q=b.of)], (1.0, 1.0))["q"]
    assert fused == whole
    assert fused.passage_ids[0] == "y"
    # by the lowest that a part found, x and w would be alike but for the first part
    lacking = weigh_scores([a.search(asked), b.search(asked)], (1.0, 1.0))["q"]
    assert lacking.passage_ids != whole.passage_ids


def test_retrievers_score_passages_as_they_found_them(tmp_path: Path) -> None:
    corpus = {
        str(i): Passage(id=str(i), text=text)
        for i, text in enumerate(
            ["a red fox", "a blue bird", "green grass", "the fox and the bird"]
        )
    }
    asked = {"q": Query(id="q", text="fox"), "r": Query(id="r", text="bird")}
    for spec in ("bm25", "dense:minilm-l6"):
        setting = Setting(corpus=corpus, bm25=DEFAULTS, folder=tmp_path)
        opened = open_retriever(RetrieverSpec.of(spec), setting)
        found = opened.search(asked, 4)
        scored = opened.score_passages(asked, {query_id: list(corpus) for query_id in asked})
        for query_id, ranking in found.items():
            for passage_id, score in zip(ranking.passage_ids, ranking.scores, strict=True):
                assert scored[query_id][passage_id] == pytest.approx(score, abs=1e-6)
        if spec == "bm25":
            assert scored["q"]["2"] == 0.0
