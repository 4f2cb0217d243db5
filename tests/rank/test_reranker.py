"""Reranker: order, ids and scores, over a model that is easy to foresee and over real ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tiny_models import checkpoint, words

import dear.rank.pointwise as module
from dear import Candidates, Passage, Query, Reranker
from dear.checkpoints.contract import DEAR
from dear.errors import BackendError, ConfigError, DataError


class Counting:
    """Scores a pair by the number of a's in its passage; keeps what it was asked."""

    name = revision = fingerprint = "counting"
    contract: Any = None
    parameters = 0

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def score(self, pairs: Sequence[tuple[str, str]], progress: Any = None) -> NDArray[np.float32]:
        self.asked += pairs
        for i in range(0, len(pairs), 3):
            if progress is not None:
                progress(min(i + 3, len(pairs)), len(pairs))
        return np.array([p.count("a") for _, p in pairs], dtype=np.float32)


@pytest.fixture
def counting() -> Counting:
    return Counting()


def over(model: Any) -> Reranker:
    return Reranker(model)


def candidates(query: str, *texts: str) -> Candidates:
    passages = tuple(Passage(id=f"d{i}", text=t) for i, t in enumerate(texts))
    return Candidates(
        query=Query(id=query, text=f"text of {query}"),
        passages=passages,
        scores=tuple(float(-i) for i in range(len(texts))),
    )


@given(counts=st.lists(st.integers(0, 4), max_size=12))
def test_best_first_and_ties_as_given(counts: list[int]) -> None:
    ranking = over(Counting()).rank("q", ["a" * n for n in counts])
    expected = sorted(range(len(counts)), key=lambda i: (-counts[i], i))
    assert ranking.passage_ids == tuple(str(i) for i in expected)
    assert ranking.scores == tuple(float(counts[i]) for i in expected)
    assert ranking.query_id == ""


@given(counts=st.lists(st.integers(0, 4), min_size=1, max_size=12), k=st.integers(1, 15))
def test_top_k_is_the_head_of_all(counts: list[int], k: int) -> None:
    texts = ["a" * n for n in counts]
    assert over(Counting()).rank("q", texts, top_k=k) == over(Counting()).rank("q", texts).top(k)


def test_titles_stand_in_front_and_ids_are_kept(counting: Counting) -> None:
    passages = [
        Passage(id="x", text="b", title="aaa"),
        Passage(id="y", text="aa"),
        Passage(id="z", text="", title=""),
    ]
    ranking = over(counting).rank("q", passages)
    assert ranking.passage_ids == ("x", "y", "z")
    assert counting.asked == [("q", "aaa b"), ("q", "aa"), ("q", "")]


def test_strings_and_passages_may_be_mixed(counting: Counting) -> None:
    assert over(counting).rank("q", ["a", Passage(id="p", text="aa")]).passage_ids == ("p", "0")
    scores = over(counting).score([("q", "a"), ("q", Passage(id="p", text="a", title="a"))])
    assert scores.tolist() == [1, 2]


def test_one_id_twice_is_refused(counting: Counting) -> None:
    with pytest.raises(DataError, match="'p' is ranked twice"):
        over(counting).rank("q", [Passage(id="p", text="a"), Passage(id="p", text="b")])


def test_nothing_gives_nothing(counting: Counting) -> None:
    reranker = over(counting)
    assert len(reranker.rank("q", [])) == 0
    assert list(reranker.rank_candidates([])) == []
    assert reranker.score([]).shape == (0,)
    empty, full, none = reranker.rank_candidates(
        [candidates("1"), candidates("2", "a", "aa"), candidates("3")]
    )
    assert (len(empty), len(none)) == (0, 0)
    assert full.passage_ids == ("d1", "d0")
    assert [r.query_id for r in (empty, full, none)] == ["1", "2", "3"]


@pytest.mark.parametrize("chunk", [1, 3, 7, 1000])
def test_candidates_are_ranked_each_for_itself(
    chunk: int, monkeypatch: pytest.MonkeyPatch, counting: Counting
) -> None:
    monkeypatch.setattr(module, "CHUNK_PAIRS", chunk)
    rng = np.random.default_rng(0)
    some = [
        candidates(f"q{i}", *("a" * int(n) for n in rng.integers(0, 5, int(rng.integers(0, 6)))))
        for i in range(9)
    ]
    seen: list[tuple[int, int]] = []
    found = list(
        over(counting).rank_candidates(
            some, progress=lambda done, total: seen.append((done, total))
        )
    )
    expected = [over(Counting()).rank(c.query.text, c.passages) for c in some]
    assert [(r.passage_ids, r.scores) for r in found] == [
        (r.passage_ids, r.scores) for r in expected
    ]
    assert [r.query_id for r in found] == [c.query.id for c in some]
    total = sum(len(c.passages) for c in some)
    assert [t for _, t in seen] == [total] * len(seen)
    assert [d for d, _ in seen] == sorted(d for d, _ in seen)
    assert seen[-1] == (total, total)


def test_top_k_of_candidates_scores_all(counting: Counting) -> None:
    (ranking,) = over(counting).rank_candidates([candidates("q", "a", "aaa", "aa")], top_k=2)
    assert ranking.passage_ids == ("d1", "d2")
    assert len(counting.asked) == 3


@pytest.mark.parametrize("top_k", [0, -1])
def test_top_k_below_one_is_refused_at_once(top_k: int, counting: Counting) -> None:
    with pytest.raises(ConfigError, match="top_k must be 1 or more"):
        over(counting).rank("q", ["a"], top_k=top_k)
    with pytest.raises(ConfigError, match="top_k must be 1 or more"):
        over(counting).rank_candidates([], top_k=top_k)  # not only when it is iterated
    assert counting.asked == []


# ---------------------------------------------------------------- with weights


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("reranker") / "m", "llama")


def test_a_checkpoint_ranks_by_its_scores(folder: Path) -> None:
    reranker = Reranker(folder, contract=DEAR, dtype="float32")
    passages = [Passage(id=f"p{i}", text=words(8, i), title=words(2, i + 50)) for i in range(9)]
    scores = reranker.score([("open file", p) for p in passages])
    ranking = reranker.rank("open file", passages)
    order = np.argsort(-scores)
    assert ranking.passage_ids == tuple(f"p{i}" for i in order)
    np.testing.assert_allclose(ranking.scores, scores[order], atol=1e-5)
    titled = reranker.score([("open file", f"{p.title} {p.text}") for p in passages])
    np.testing.assert_allclose(scores, titled, atol=1e-6)
    given = Candidates(
        query=Query(id="7", text="open file"), passages=tuple(passages), scores=(0.0,) * 9
    )
    (found,) = reranker.rank_candidates([given])
    assert found.passage_ids == ranking.passage_ids
    assert found.query_id == "7"


def test_a_hundred_thousand_words(folder: Path) -> None:
    import time

    long = " ".join([words(1000)] * 100)
    started = time.process_time()
    ranking = Reranker(folder, dtype="float32").rank("open", ["file", long, "", long + " end"])
    assert time.process_time() - started < 30
    assert len(ranking) == 4
    assert ranking.scores[0] > ranking.scores[-1]


def test_a_score_that_is_no_number_names_the_pair(folder: Path) -> None:
    reranker = Reranker(folder, dtype="float32")
    model: Any = reranker.model
    model.model.model.score.weight.data.fill_(math.inf)
    with pytest.raises(BackendError, match="for query 'open', passage 'file'"):
        reranker.rank("open", ["file"])


def test_a_bi_encoder_ranks_too() -> None:
    reranker = Reranker("biencoder:minilm-l6", dtype="float32")
    texts = ["a river bank", "open a file in Python", "open a file in Python"]
    assert reranker.rank("how do I read a file?", texts).passage_ids == ("1", "2", "0")
    seen: list[tuple[int, int]] = []
    some = [candidates(f"q{i}", words(4, i), words(3, i + 9)) for i in range(4)]
    list(reranker.rank_candidates(some, progress=lambda d, t: seen.append((d, t))))
    assert seen[-1] == (8, 8)
    assert all(t == 8 for _, t in seen)
