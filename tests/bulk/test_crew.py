"""Leaves through a real Ray: each is answered once, whatever dies."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from leaves import dies_while_opening, open_nothing, open_worker, opens_differently

from dear.bulk import crew as crew_module
from dear.bulk.crew import IN_FLIGHT, TRIES, Crew
from dear.errors import BackendError, ContractMismatch, DearError, MissingExtra

pytestmark = pytest.mark.by_hand


def done(crew: Crew, whats: dict[int, str], count: int = 12) -> dict[int, Any]:
    """Leaf → its answer, of `count` leaves, each with what `whats` says of it."""
    leaves = ((i, (whats.get(i, ""), i)) for i in range(count))
    found = list(crew.answers(leaves))
    assert sorted(number for number, _ in found) == list(range(count))  # each once
    return dict(found)


def squares(found: dict[int, Any]) -> set[int]:
    good = {i for i, answer in found.items() if not isinstance(answer, DearError)}
    assert all(found[i][0] == i * i for i in good)
    return good


def test_leaves_are_answered_once_on_both_machines_whatever_dies(
    cluster: Any, tmp_path: Path, log: Callable[[], list[str]]
) -> None:
    with Crew(partial(open_worker, tmp_path)) as crew:
        assert (crew.workers, crew.about) == (2, {"name": "squares"})
        whats = dict.fromkeys(range(24), "is slow") | {3: "kills once", 5: "raises once"}
        found = done(crew, whats, 24)
        assert squares(found) == set(range(24))
        assert len({node for _, node in found.values()}) == 2
        # a job after the other, with what ends every worker, and what no worker can do
        bad = {1: "kills", 2: "raises", 4: "refuses"}
        found = done(crew, bad)
        assert squares(found) == set(range(12)) - set(bad)
        assert "the worker died" in str(found[1])
        assert str(found[2]) == "ValueError: leaf 2"
        assert str(found[4]) == "no score"
        tried = [line.split()[0] for line in log()]
        assert tried.count("1") == TRIES + 1


def test_input_is_taken_when_there_is_room_for_it(cluster: Any, tmp_path: Path) -> None:
    taken, answered = itertools.count(), 0

    def leaves() -> Iterator[tuple[int, tuple[str, int]]]:
        for number in range(30):
            ahead = next(taken) - answered
            assert ahead <= IN_FLIGHT * 2
            yield number, ("", number)

    with Crew(partial(open_worker, tmp_path)) as crew:
        for _ in crew.answers(leaves()):
            answered += 1
    assert answered == 30


def test_a_late_leaf_is_dealt_again_and_a_stuck_worker_ended(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = time.monotonic()
    with Crew(partial(open_worker, tmp_path)) as crew:
        assert squares(done(crew, {2: "hangs once"})) == set(range(12))
    monkeypatch.setattr(crew_module, "STUCK_S", 1.0)
    with Crew(partial(open_worker, tmp_path), workers=1) as crew:
        assert squares(done(crew, {13: "hangs once"}, 15)) == set(range(15))
    assert time.monotonic() - started < 300


def test_a_machine_vanishes_and_another_one_comes(cluster: Any, tmp_path: Path) -> None:
    extra = cluster.add_node(num_cpus=1)
    with Crew(partial(open_worker, tmp_path)) as crew:
        assert crew.workers == 3
        found = {}
        leaves = ((i, ("is slow", i)) for i in range(40))
        for number, answer in crew.answers(leaves):
            found[number] = answer
            if len(found) == 12:
                cluster.remove_node(extra, allow_graceful=False)
            if len(found) == 20:
                extra = cluster.add_node(num_cpus=1)
    cluster.remove_node(extra)
    assert squares(found) == set(range(40))


def test_what_does_not_open_is_said(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BackendError, match=r"^these weights do not load$"):
        Crew(open_nothing)
    with pytest.raises(BackendError, match="the worker died"):
        Crew(dies_while_opening)
    with (
        pytest.raises(ContractMismatch, match="the workers would score differently"),
        Crew(opens_differently) as crew,
    ):
        list(crew.answers((i, i) for i in itertools.count()))
    monkeypatch.setattr(crew_module, "EMPTY_S", 2.0)
    with pytest.raises(BackendError, match=r"no worker in 2 s: each asks for 1 num_cpus, 3 num_gp"):
        Crew(partial(open_worker, tmp_path), gpus=3, workers=1)


def test_no_cluster_and_no_ray_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackendError, match=r"^no Ray at nothing-here.*RAY_AUTH_MODE=token here"):
        Crew(partial(open_worker, tmp_path), address="nothing-here")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(
        MissingExtra, match=r"ray is not installed: pip install 'dear-rerank\[ray]'"
    ):
        Crew(partial(open_worker, tmp_path))
