"""Systems in turns: everybody scores the same pairs, and one that fails takes nobody along."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from dear.bench.machine import describe, matrix_rate
from dear.bench.turns import System, in_turns, pairs_of, quality
from dear.errors import BackendError
from dear.records import Candidates, Passage, Query
from dear.scoring.encoding import Pair

PAIRS = [("query", f"passage {i}") for i in range(100)]


def system(name: str, calls: list[str], length: int | None = None) -> System:
    def load() -> Any:
        def score(pairs: Sequence[Pair]) -> list[float]:
            calls.append(name)
            return [float(len(p)) for _, p in pairs][:length]

        return score

    return System(name=name, load=load)


def test_the_order_turns_round_after_one_warm_up_each() -> None:
    calls: list[str] = []
    steps: list[tuple[int, int]] = []
    timings, failed = in_turns(
        [system("a", calls), system("b", calls)],
        PAIRS,
        rounds=3,
        progress=lambda done, total: steps.append((done, total)),
    )
    assert calls == ["a", "b", *"ab", *"ba", *"ab"]
    assert steps == [(i, 6) for i in range(1, 7)]
    assert [t.name for t in timings] == ["a", "b"]
    assert not failed
    for timing in timings:
        assert len(timing.seconds) == 3
        assert timing.scores.tolist() == [float(len(p)) for _, p in PAIRS]
        assert timing.pairs_per_s == len(PAIRS) / sorted(timing.seconds)[1]


def test_a_system_that_does_not_start_is_reported_and_left_out() -> None:
    def broken() -> Any:
        raise OSError("no such weights\nand a long story")

    calls: list[str] = []
    timings, failed = in_turns([System(name="broken", load=broken), system("a", calls)], PAIRS)
    assert [t.name for t in timings] == ["a"]
    assert failed == {"broken": "no such weights"}


def test_a_system_that_loses_pairs_is_an_error() -> None:
    with pytest.raises(BackendError, match="a: 50 scores for 100 pairs"):
        in_turns([system("a", [], length=50)], PAIRS)


def test_quality_ranks_each_query_by_its_own_scores() -> None:
    candidates = [
        Candidates(
            query=Query(id=q, text=q),
            passages=tuple(Passage(id=p, text=p) for p in "xyz"),
            scores=(3.0, 2.0, 1.0),
        )
        for q in ("a", "b")
    ]
    assert pairs_of(candidates)[:2] == [("a", "x"), ("a", "y")]
    judgements = {"a": {"z": 1}, "b": {"x": 1}}
    best = np.array([1, 2, 3, 9, 1, 1], dtype=np.float32)
    assert quality(best, candidates, judgements) == pytest.approx(1.0)
    assert quality(-best, candidates, judgements) == pytest.approx(0.5)  # both at rank 3


def test_the_machine_is_described() -> None:
    assert matrix_rate("float32", "cpu", rounds=1) > 1e8
    found = describe("cpu")
    assert found["device"] == "cpu"
    assert {"processor", "threads", "torch", "transformers"} <= found.keys()
