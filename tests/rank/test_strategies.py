"""Every strategy, on every size: who is visited, what comes out, and how many calls that takes."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dear.errors import ConfigError
from dear.listwise.strategies import (
    STRATEGIES,
    Full,
    Setwise,
    Sliding,
    Strategy,
    TopDown,
    Tournament,
    Window,
    drive,
    open_strategy,
)

Answer = Callable[[Window], Sequence[int]]


def walk(strategy: Strategy, count: int, answer: Answer) -> tuple[Window, list[Window]]:
    """(final order, windows in the order asked)."""
    windows: list[Window] = []

    def ask(asked: Sequence[tuple[int, Window]]) -> list[Window]:
        windows.extend(window for _, window in asked)
        return [tuple(answer(window)) for _, window in asked]

    (order,) = drive([strategy.plan(count)], ask)
    return order, windows


def at_random(seed: int) -> Answer:
    draw = random.Random(seed)
    return lambda window: draw.sample(window, len(window))


def oracle(seed: int, count: int) -> tuple[Answer, list[int]]:
    """(an answerer that is always right, the right order)."""
    right = random.Random(seed).sample(range(count), count)
    place = {candidate: i for i, candidate in enumerate(right)}
    return lambda window: sorted(window, key=place.__getitem__), right


@st.composite
def strategies(draw: st.DrawFn) -> Strategy:
    window = draw(st.integers(2, 25))
    return draw(
        st.sampled_from(
            [
                Full(),
                Sliding(window=window, step=draw(st.integers(1, window))),
                TopDown(window=window, top_k=draw(st.integers(1, window - 1))),
                TopDown(window=window),
                Setwise(window=window, top_k=draw(st.integers(1, 30))),
                Tournament(window=window),
            ]
        )
    )


@given(strategies(), st.integers(0, 200), st.integers(0, 10**6))
def test_whatever_is_answered_the_result_is_a_permutation(
    strategy: Strategy, count: int, seed: int
) -> None:
    order, windows = walk(strategy, count, at_random(seed))
    assert sorted(order) == list(range(count))
    assert len(windows) <= strategy.calls(count)
    assert all(len(set(window)) == len(window) >= 2 for window in windows)
    if not isinstance(strategy, Full):
        assert all(len(window) <= strategy.window for window in windows)  # type: ignore[attr-defined]


@given(strategies(), st.integers(0, 200), st.integers(0, 10**6))
def test_every_candidate_is_in_some_window(strategy: Strategy, count: int, seed: int) -> None:
    _, windows = walk(strategy, count, at_random(seed))
    visited = {i for window in windows for i in window}
    assert visited == (set(range(count)) if count > 1 else set())


@given(strategies(), st.integers(0, 200), st.integers(0, 10**6))
def test_calls_that_do_not_depend_on_the_answers_are_exact(
    strategy: Strategy, count: int, seed: int
) -> None:
    if isinstance(strategy, Full | Sliding | Tournament):
        assert len(walk(strategy, count, at_random(seed))[1]) == strategy.calls(count)


@pytest.mark.parametrize("window", [2, 3, 7, 20])
def test_sliding_visits_the_head_for_every_count_and_step(window: int) -> None:
    for count in range(2, 201):
        for step in range(1, window + 1):
            _, windows = walk(Sliding(window=window, step=step), count, tuple)
            assert {i for w in windows for i in w} == set(range(count)), (count, step)
            assert 0 in windows[-1]
            assert len(windows[-1]) == min(window, count)


@given(
    st.sampled_from([Full(), Setwise(), Setwise(window=20), TopDown(), Sliding(), Tournament()]),
    st.integers(0, 100),
    st.integers(0, 10**6),
)
def test_the_best_ten_come_out_right(strategy: Strategy, count: int, seed: int) -> None:
    answer, right = oracle(seed, count)
    order, _ = walk(strategy, count, answer)
    assert list(order[:10]) == right[:10]
    if isinstance(strategy, Full):
        assert list(order) == right


@given(strategies(), st.integers(1, 200), st.integers(0, 10**6))
def test_a_right_answerer_gives_what_each_strategy_promises(
    strategy: Strategy, count: int, seed: int
) -> None:
    answer, right = oracle(seed, count)
    order, _ = walk(strategy, count, answer)
    match strategy:
        case Full():
            promised = count
        case Sliding():
            promised = count if count <= strategy.window else strategy.window - strategy.step
        case TopDown():
            promised = strategy.top_k or strategy.window // 2
        case Setwise():
            promised = strategy.top_k
        case _:
            promised = strategy.window // 2  # type: ignore[attr-defined]
    assert list(order[:promised]) == right[:promised]


@given(st.integers(2, 25), st.integers(0, 200), st.data())
def test_the_most_calls_are_reached(window: int, count: int, data: st.DataObject) -> None:
    # the last of a window wins: nobody of the first window stays above a newcomer, and a parent
    # always loses to a child
    top_down = TopDown(window=window, top_k=data.draw(st.integers(1, window - 1)))
    asked: list[Window] = []

    def newcomers_win(w: Window) -> Window:
        asked.append(w)
        return (*w[1:], w[0])

    walk(top_down, count, newcomers_win)
    assert len(asked) == top_down.calls(count)

    setwise = Setwise(window=window, top_k=data.draw(st.integers(1, 30)))
    _, windows = walk(setwise, count, lambda w: (w[1], w[0], *w[2:]))
    assert len(windows) == setwise.calls(count)


def test_known_numbers_of_calls() -> None:
    assert Sliding().calls(100) == 9
    assert [Sliding().calls(n) for n in (0, 1, 2, 20, 21, 25, 30, 31)] == [0, 0, 1, 1, 2, 2, 2, 3]
    assert Tournament().calls(100) == 5 + 3 + 2 + 1
    # the paper's case: 100 candidates, nobody beats the pivot
    answer = sorted
    assert len(walk(TopDown(), 100, answer)[1]) == 1 + 5
    assert Full().calls(100) == 1


def test_twenty_five_candidates_and_a_window_of_twenty() -> None:
    _, windows = walk(Sliding(window=20, step=10), 25, tuple)
    assert windows == [tuple(range(5, 25)), tuple(range(20))]


@pytest.mark.parametrize("name", STRATEGIES)
def test_fewer_candidates_than_the_window_are_one_window(name: str) -> None:
    strategy = open_strategy(name, window=20)
    for count in (0, 1):
        assert walk(strategy, count, tuple) == (tuple(range(count)), [])
    order, windows = walk(strategy, 7, lambda w: w[::-1])
    if name != "setwise":
        assert (order, windows) == (tuple(range(7))[::-1], [tuple(range(7))])


def test_plans_walk_in_lock_step_and_do_not_mix() -> None:
    counts = [0, 1, 2, 20, 35, 100, 100]
    alone = [walk(Sliding(), count, lambda w: w[::-1])[0] for count in counts]
    batches: list[list[int]] = []

    def ask(asked: Sequence[tuple[int, Window]]) -> list[Window]:
        batches.append([place for place, _ in asked])
        return [window[::-1] for _, window in asked]

    assert drive([Sliding().plan(count) for count in counts], ask) == alone
    assert len(batches) == 9
    assert batches[0] == [2, 3, 4, 5, 6]


def test_those_who_leave_a_tournament_later_stand_higher() -> None:
    order, _ = walk(Tournament(window=4), 10, tuple)
    assert order == (0, 1, 2, 3, 4, 5, 6, 7, 8, 9)
    order, _ = walk(Tournament(window=4), 10, lambda w: w[::-1])
    # 9 6 3 0, 7 4 1, 8 5 2 lose 3 1 2 0; then 4 8 9, 5 6 7 lose 9 7; then 6 8 5 4
    assert order == (6, 8, 5, 4, 9, 7, 3, 1, 2, 0)


def test_independent_windows_come_together() -> None:
    sizes: list[int] = []

    def ask(asked: Sequence[tuple[int, Window]]) -> list[Window]:
        sizes.append(len(asked))
        return [window for _, window in asked]

    drive([TopDown().plan(100)], ask)
    assert sizes == [1, 5]
    sizes.clear()
    drive([Tournament().plan(100)], ask)
    assert sizes == [5, 3, 2, 1]
    sizes.clear()
    drive([Setwise(window=4, top_k=1).plan(100)], ask)
    assert sizes == [20, 9, 3, 1]


@pytest.mark.parametrize(
    ("name", "numbers", "message"),
    [
        ("slding", {}, "did you mean 'sliding'"),
        ("sliding", {"window": 1}, "2 candidates or more"),
        ("sliding", {"step": 21}, "step must be 1 to the window's 20"),
        ("sliding", {"step": 0}, "step must be 1"),
        ("setwise", {"top_k": 0}, "top_k must be 1 or more"),
        ("setwise", {"window": 1}, "2 candidates or more"),
        ("topdown", {"window": 1}, "2 candidates or more"),
        ("tournament", {"window": 1}, "2 candidates or more"),
    ],
)
def test_refusals(name: str, numbers: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        open_strategy(name, **numbers)


def test_what_is_not_said_is_as_the_classes_have_it() -> None:
    assert open_strategy("sliding") == Sliding()
    assert open_strategy("topdown") == TopDown()
    assert open_strategy("tournament") == Tournament()
    assert open_strategy("setwise", window=4) == Setwise()
    assert open_strategy("full") == Full()


def test_a_pivot_needs_a_place_below_the_window() -> None:
    with pytest.raises(ConfigError, match="below the window"):
        TopDown(window=10, top_k=10)
