"""What ranks: candidates in, rankings out, whatever is behind it.

    Ranker      the interface; pointwise, listwise, fused and two-stage rankers have it
    Reranker    what users make from a spec (dear.rank.reranker); it is a Ranker
    Ranking     the result (dear.records)

A ranker may be shared by threads and remembers nothing of its last call: what a call came to is in
its rankings. `dear.rank.opening.open_ranker` makes one from what a user types.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from dear.errors import Cancelled, ConfigError
from dear.rank.arguments import Text, as_passages, as_query
from dear.records import (
    Candidates,
    PairRead,
    Passage,
    Query,
    Ranking,
    RankingCost,
    Reasoning,
)

Progress: TypeAlias = Callable[[int, int], None]
"""Called with (done, in all): pairs, windows, or both where a ranker has two stages."""

Cancel: TypeAlias = Callable[[], bool]
"""Asked between batches; True ends the call with Cancelled."""


class Ranker(Protocol):
    """Orders each query's candidates."""

    @property
    def name(self) -> str: ...
    def rank_candidates(
        self,
        candidates: Iterable[Candidates],
        *,
        top_k: int | None = None,
        progress: Progress | None = None,
        deadline: float | None = None,
        cancel: Cancel | None = None,
    ) -> Iterator[Ranking]:
        """A Ranking for each query, in order.

        top_k: passages to keep of each ranking; all candidates are looked at.
        deadline: a time of `time.monotonic()`. No batch is begun after it: what was scored by then
            is ranked, the rest follows in the order given, and the ranking is not `complete`.
        cancel: Cancelled where it says True.

        ConfigError: top_k below 1. BackendError: what the model or server raises.
        """
        ...


@dataclass(frozen=True, slots=True)
class Limits:
    """When to stop."""

    deadline: float | None = None
    cancel: Cancel | None = None

    def __bool__(self) -> bool:
        return self.deadline is not None or self.cancel is not None

    def reached(self) -> bool:
        """Whether the deadline has passed. Cancelled where the caller has gone away."""
        if self.cancel is not None and self.cancel():
            raise Cancelled("ranking was cancelled")
        return self.deadline is not None and time.monotonic() >= self.deadline


UNREADABLE = "unreadable"
"""The mend of a window whose answer held no ranking: it kept its order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Totals:
    """What several rankings took together.

    mends: kind → windows, UNREADABLE among them.
    """

    queries: int
    cost: RankingCost
    mends: Counter[str]

    @classmethod
    def of(cls, rankings: Iterable[Ranking]) -> Totals:
        queries, cost, mends = 0, RankingCost(), Counter[str]()
        for ranking in rankings:
            queries += 1
            cost += ranking.cost or RankingCost()
            mends.update(ranking.mended)
        return cls(queries=queries, cost=cost, mends=mends)

    @property
    def unreadable(self) -> int:
        """Windows whose answer held no ranking."""
        return self.mends[UNREADABLE]

    def to_dict(self) -> dict[str, Any]:
        """Of the listwise stage, for a run's note."""
        kinds = {kind: n for kind, n in sorted(self.mends.items()) if kind != UNREADABLE}
        return {
            "queries": self.queries,
            "windows": self.cost.windows,
            "mended": self.cost.mended_windows,
            "parse_errors": self.unreadable,
            "mends": kinds,
            "prompt_tokens": self.cost.prompt_tokens,
            "completion_tokens": self.cost.completion_tokens,
            "seconds": round(self.cost.listwise_s, 3),
        }


def rank_one(
    ranker: Ranker,
    query: str,
    passages: Iterable[Text],
    *,
    top_k: int | None = None,
    deadline: float | None = None,
    cancel: Cancel | None = None,
) -> Ranking:
    """The passages of one query, best first; `query_id` is "".

    Takes what `Reranker.rank` takes. No passages give an empty Ranking.
    """
    check_top_k(top_k)
    query = as_query(query)
    ids, given = as_passages(passages)
    if not ids:
        return Ranking(query_id="", passage_ids=(), scores=())
    one = Candidates(
        query=Query(id="", text=query),
        passages=tuple(
            p if isinstance(p, Passage) else Passage(id=i, text=p)
            for i, p in zip(ids, given, strict=True)
        ),
        scores=tuple(float(-i) for i in range(len(ids))),
        unscored=True,
    )
    (found,) = ranker.rank_candidates([one], top_k=top_k, deadline=deadline, cancel=cancel)
    return found


def reordered(
    candidates: Candidates,
    order: Sequence[int],
    scores: Sequence[float],
    *,
    complete: bool = True,
    read: Sequence[PairRead] = (),
    reasoning: Sequence[Reasoning] = (),
    cost: RankingCost | None = None,
    mended: dict[str, int] | None = None,
) -> Ranking:
    """The candidates in `order` (positions, best first), with their texts.

    scores: of the positions in `order`, never rising; candidates that are not in it follow in the
    order given, each one below the one before.  read: of the first candidates, or empty.
    """
    placed = set(order)
    rest = [i for i in range(len(candidates.passages)) if i not in placed]
    lowest = min(scores, default=0.0)
    positions = (*order, *rest)
    passages = tuple(candidates.passages[i] for i in positions)
    return Ranking(
        query_id=candidates.query.id,
        passage_ids=tuple(p.id for p in passages),
        scores=(*map(float, scores), *(lowest - 1.0 - i for i in range(len(rest)))),
        complete=complete,
        passages=passages,
        positions=positions,
        read=tuple(read[i] if i < len(read) else None for i in positions) if read else (),
        reasoning=tuple(reasoning),
        cost=cost,
        mended=mended or {},
    )


def as_candidates(candidates: Candidates, ranking: Ranking) -> Candidates:
    """What the next stage is given: the ranking's passages, with its scores."""
    return Candidates(query=candidates.query, passages=ranking.passages, scores=ranking.scores)


def check_top_k(top_k: int | None) -> None:
    if top_k is not None and top_k < 1:
        raise ConfigError(f"top_k must be 1 or more, not {top_k}")
