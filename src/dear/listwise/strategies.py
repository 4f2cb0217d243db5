"""Which windows to ask about, in what order: index arithmetic only, no model.

A plan is a generator. It yields rounds: windows of candidate positions that do not depend on each
other. It is sent their orders, and returns the order of all candidates, best first. `drive` walks
many plans in lock step, so that the windows of different queries are asked together.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from dear.errors import ConfigError, nearest

Window: TypeAlias = tuple[int, ...]
"""Positions of candidates, counted from 0 in the first stage's order. At least two."""

Windows: TypeAlias = tuple[Window, ...]
Plan: TypeAlias = Generator[Windows, Windows, Window]


class Strategy(Protocol):
    """How a list is put in order by looking at windows of it."""

    def plan(self, count: int) -> Plan:
        """For `count` candidates. Fewer than two need no window."""
        ...

    def calls(self, count: int) -> int:
        """Windows that `plan(count)` asks about, at most; the exact number but where it adapts."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Full:
    """One window over everything."""

    def plan(self, count: int) -> Plan:
        return (yield from _one(tuple(range(count))))

    def calls(self, count: int) -> int:
        return int(count > 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sliding:
    """From the back to the front (RankGPT, Sun et al. 2023); every candidate is visited.

    The last window is the first `window` positions, whether the range divides or not, so the head
    is never skipped. An answerer that is always right puts the best window - step on top.
    """

    window: int = 20
    step: int = 10

    def __post_init__(self) -> None:
        _check_window(self.window)
        if not 1 <= self.step <= self.window:
            raise ConfigError(f"step must be 1 to the window's {self.window}, not {self.step}")

    def plan(self, count: int) -> Plan:
        order = list(range(count))
        for start in self._starts(count):
            (ranked,) = yield (tuple(order[start : start + self.window]),)
            order[start : start + self.window] = ranked
        return tuple(order)

    def calls(self, count: int) -> int:
        return len(self._starts(count))

    def _starts(self, count: int) -> list[int]:
        if count < 2:
            return []
        return [*range(count - self.window, 0, -self.step), 0]


@dataclass(frozen=True, kw_only=True, slots=True)
class TopDown:
    """Top-down partitioning (Parry et al. 2024): a pivot splits what the first window left.

    The first window is ranked, and the one at place `top_k` becomes the pivot. All others meet it
    in windows that can be asked at once; those above it go on together with the best of the first
    window, until none is. An answerer that is always right puts the best `top_k` on top. Those
    below a pivot stay in the order in which they were found.

    top_k: half of the window where None.
    """

    window: int = 20
    top_k: int | None = None

    def __post_init__(self) -> None:
        _check_window(self.window)
        if self.top_k is not None and not 1 <= self.top_k < self.window:
            raise ConfigError(
                f"top_k must be 1 to {self.window - 1}, below the window, not {self.top_k}"
            )

    @property
    def _cut(self) -> int:
        return self.window // 2 if self.top_k is None else self.top_k

    def plan(self, count: int) -> Plan:
        above, below = tuple(range(count)), ()  # type: tuple[Window, Window]
        while len(above) > self.window:
            (first,) = yield (above[: self.window],)
            pivot, size = first[self._cut - 1], self.window - 1
            rest = above[self.window :]
            parts = [rest[i : i + size] for i in range(0, len(rest), size)]
            answers = yield tuple((pivot, *part) for part in parts)
            won, lost = first[: self._cut - 1], first[self._cut :]
            for ranked in answers:
                place = ranked.index(pivot)
                won, lost = won + ranked[:place], lost + ranked[place + 1 :]
            above, below = won, (pivot, *lost, *below)
            if len(above) < self._cut:
                return above + below  # nobody beat the pivot: the best are ranked already
        return (yield from _one(above)) + below

    def calls(self, count: int) -> int:
        """The most: everybody outside the first window beats the pivot, every time."""
        calls = 0
        while count > self.window:
            calls += 1 - (self.window - count) // (self.window - 1)
            count -= self.window - self._cut + 1
        return calls + int(count > 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Setwise:
    """Heap selection with sets (Zhuang et al. 2024): the best `top_k`, the others as they were.

    A window is a parent and its window - 1 children, and only its best is read. Subtrees of a
    level are built at once.
    """

    window: int = 4
    top_k: int = 10

    def __post_init__(self) -> None:
        _check_window(self.window)
        if self.top_k < 1:
            raise ConfigError(f"top_k must be 1 or more, not {self.top_k}")

    def plan(self, count: int) -> Plan:
        heap = list(range(count))
        for level in self._levels(count):
            yield from self._sift(heap, level)
        best: list[int] = []
        while heap and len(best) < self.top_k:
            best.append(heap[0])
            last = heap.pop()
            if heap and len(best) < self.top_k:
                heap[0] = last
                yield from self._sift(heap, [0])
        chosen = set(best)
        return (*best, *(i for i in range(count) if i not in chosen))

    def calls(self, count: int) -> int:
        """The most: every candidate sinks to the bottom."""
        build = sum(self._height(i, count) for level in self._levels(count) for i in level)
        return build + sum(self._height(0, count - i) for i in range(1, min(self.top_k, count)))

    def _children(self, node: int, size: int) -> range:
        first = node * (self.window - 1) + 1
        return range(first, min(first + self.window - 1, size))

    def _height(self, node: int, size: int) -> int:
        # a heap is filled from the left: no path below a node is longer than its leftmost one
        height = 0
        while children := self._children(node, size):
            node, height = children[0], height + 1
        return height

    def _levels(self, count: int) -> list[range]:
        """Nodes with children, a level each, the deepest first."""
        levels: list[range] = []
        first, width = 0, 1
        while self._children(first, count):
            nodes = range(first, first + width)
            levels.append(range(first, 1 + max(i for i in nodes if self._children(i, count))))
            first, width = first + width, width * (self.window - 1)
        return levels[::-1]

    def _sift(self, heap: list[int], nodes: Sequence[int]) -> Generator[Windows, Windows, None]:
        sinking = list(nodes)
        while sinking := [node for node in sinking if self._children(node, len(heap))]:
            places = [(node, *self._children(node, len(heap))) for node in sinking]
            answers = yield tuple(tuple(heap[i] for i in window) for window in places)
            sunk: list[int] = []
            for window, ranked in zip(places, answers, strict=True):
                best = next(i for i in window if heap[i] == ranked[0])
                if best != window[0]:
                    heap[window[0]], heap[best] = heap[best], heap[window[0]]
                    sunk.append(best)
            sinking = sunk


@dataclass(frozen=True, kw_only=True, slots=True)
class Tournament:
    """Rounds of groups (after TourRank, Chen et al. 2025): the best half of a window goes on.

    Candidates are dealt to the fewest groups that fit a window, like seeded players. The best
    window // 2 of each group meet again, until all fit one window. Those that leave together
    stand by their place in their group. An answerer that is always right puts the best
    window // 2 on top. All groups of a round can be asked at once.
    """

    window: int = 20

    def __post_init__(self) -> None:
        _check_window(self.window)

    def plan(self, count: int) -> Plan:
        going, out = tuple(range(count)), ()  # type: tuple[Window, Window]
        while len(going) > self.window:
            groups = self._groups(going)
            asked = [g for g in groups if len(g) > self._stay]
            answers = iter((yield tuple(asked)))
            ranked = [next(answers) if len(g) > self._stay else g for g in groups]
            out = _by_place([g[self._stay :] for g in ranked]) + out
            going = _by_place([g[: self._stay] for g in ranked])
        return (yield from _one(going)) + out

    def calls(self, count: int) -> int:
        calls = 0
        while count > self.window:
            sizes = [len(g) for g in self._groups(range(count))]
            calls += sum(size > self._stay for size in sizes)
            count = sum(min(size, self._stay) for size in sizes)
        return calls + int(count > 1)

    @property
    def _stay(self) -> int:
        return self.window // 2

    def _groups(self, going: Sequence[int]) -> list[Window]:
        number = -(-len(going) // self.window)
        return [tuple(going[i::number]) for i in range(number)]


STRATEGIES: dict[str, Callable[[int, int, int], Strategy]] = {
    "sliding": lambda window, step, top_k: Sliding(window=window, step=step),
    "topdown": lambda window, step, top_k: TopDown(window=window),
    "setwise": lambda window, step, top_k: Setwise(window=window, top_k=top_k),
    "tournament": lambda window, step, top_k: Tournament(window=window),
    "full": lambda window, step, top_k: Full(),
}
"""Name → what makes it of (window, step, top_k); each takes what it knows."""


def open_strategy(name: str, *, window: int = 20, step: int = 10, top_k: int = 10) -> Strategy:
    """The strategy of that name. ConfigError: an unknown name, numbers that do not fit."""
    if name not in STRATEGIES:
        raise ConfigError(f"unknown strategy {name!r}{nearest(name, STRATEGIES)}")
    return STRATEGIES[name](window, step, top_k)


def drive(
    plans: Sequence[Plan],
    ask: Callable[[Sequence[tuple[int, Window]]], Sequence[Window]],
) -> list[Window]:
    """The final order of each plan, all of them walked in lock step.

    ask: (place of the plan, window) pairs → each window's positions, best first. One call holds
    the next round of every plan that still goes.
    """
    finished: dict[int, Window] = {}
    rounds: dict[int, Windows] = {}

    def advance(place: int, answers: Windows | None) -> None:
        try:
            rounds[place] = next(plans[place]) if answers is None else plans[place].send(answers)
        except StopIteration as end:
            rounds.pop(place, None)
            finished[place] = end.value

    for place in range(len(plans)):
        advance(place, None)
    while rounds:
        asked = dict(rounds)
        flat = [(place, window) for place, windows in asked.items() for window in windows]
        answers = iter(ask(flat))
        for place, windows in asked.items():
            advance(place, tuple(next(answers) for _ in windows))
    return [finished[place] for place in range(len(plans))]


def _one(window: Window) -> Plan:
    if len(window) < 2:
        return window
    (ranked,) = yield (window,)
    return ranked


def _by_place(groups: Sequence[Window]) -> Window:
    """First places first, within a place in the groups' order."""
    longest = max(map(len, groups), default=0)
    return tuple(g[place] for place in range(longest) for g in groups if place < len(g))


def _check_window(window: int) -> None:
    if window < 2:
        raise ConfigError(f"a window holds 2 candidates or more, not {window}")
