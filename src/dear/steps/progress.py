"""How far long work is: what a step tells, and whoever watches it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from dear.rank.ranker import Ranker
    from dear.records import Candidates, Ranking


class OnProgress(Protocol):
    """Where work says how far it is."""

    def __call__(self, done: int, total: int, /, *, before: int = 0, extra: str = "") -> None:
        """before: what of `done` an earlier process did; it counts for no rate."""

    def restart(self, what: str) -> None:
        """The work that follows is another one."""


Watch: TypeAlias = Callable[[str, str], AbstractContextManager[OnProgress]]
"""(what is done, its unit), such as ("scoring", "pairs") → a report for that piece of work."""


class Silent:
    """A report that nobody reads."""

    def __call__(self, done: int, total: int, /, *, before: int = 0, extra: str = "") -> None: ...

    def restart(self, what: str) -> None: ...


@contextlib.contextmanager
def unwatched(what: str, unit: str) -> Iterator[OnProgress]:
    """For steps that nobody watches."""
    yield Silent()


def rank_watched(
    ranker: Ranker, candidates: Sequence[Candidates], watch: Watch, what: str, unit: str = "pairs"
) -> dict[str, Ranking]:
    """The run that the ranker makes of the candidates, with a report of its progress."""
    with watch(what, unit) as report:
        rankings = ranker.rank_candidates(candidates, progress=report)
        return {ranking.query_id: ranking for ranking in rankings}
