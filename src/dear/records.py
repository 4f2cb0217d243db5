"""The nouns of reranking: frozen, compared by value, and free of any model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple, TypeAlias, TypeVar

from dear.errors import DataError

T = TypeVar("T")

MADE = "made:"
"""What the ids of queries that were made from documents begin with."""
MADE_SPLIT = "made"
"""Their split."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Query:
    """What somebody asked."""

    id: str
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Passage:
    """What may answer it."""

    id: str
    text: str
    title: str = ""

    @property
    def full_text(self) -> str:
        """Title, one space, text: how every pointwise model and BM25 reads a passage."""
        return f"{self.title} {self.text}" if self.title else self.text


@dataclass(frozen=True, kw_only=True, slots=True)
class ListExample:
    """A query, its passages in some order, and the order that they should have.

    order:   positions of `passages`, best first, each once.
    thought: why; names passages as [1] … [N] in the order of `passages`. "" where there is none.
    scores:  the teacher's, one for each passage; None where there is no teacher.
    source:  who wrote the thought and the order.
    """

    query: Query
    passages: tuple[Passage, ...]
    order: tuple[int, ...]
    thought: str = ""
    scores: tuple[float, ...] | None = None
    source: str = ""

    def __post_init__(self) -> None:
        where = f"query {self.query.id!r}"
        if len(self.passages) < 2:
            raise DataError(f"{where}: a list holds two passages or more")
        if len({p.id for p in self.passages}) != len(self.passages):
            raise DataError(f"{where}: a passage is in the list twice")
        if sorted(self.order) != list(range(len(self.passages))):
            raise DataError(
                f"{where}: the order is no permutation of {len(self.passages)} passages"
            )
        if self.scores is not None and len(self.scores) != len(self.passages):
            raise DataError(f"{where}: {len(self.scores)} scores, {len(self.passages)} passages")


@dataclass(frozen=True, slots=True)
class Reasoning:
    """Why a listwise model ordered a window as it did.

    passage_ids: of the window, in the order shown.  text: what the model wrote before its order;
    it names passages by the window's identifiers.
    """

    passage_ids: tuple[str, ...]
    text: str


class PairRead(NamedTuple):
    """What a model read of a pair.

    tokens: of query and passage, special ones included.  cut: whether the passage went on.
    """

    tokens: int
    cut: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class RankingCost:
    """What ranking one query took; costs add up.

    pairs: scored.  windows: asked of a listwise model.  mended_windows: whose answer was mended.
    prompt_tokens, completion_tokens: of the windows whose backend said.  pointwise_s, listwise_s:
    seconds of the call, shared evenly among its queries.
    """

    pairs: int = 0
    windows: int = 0
    mended_windows: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    pointwise_s: float = 0.0
    listwise_s: float = 0.0

    def __add__(self, other: RankingCost) -> RankingCost:
        return RankingCost(
            **{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranking:
    """Passages of one query, best first. Equal are those of the same order and scores.

    scores: one finite float for each passage, never rising. Build one from unordered scores
        with `Ranking.sorted`, which breaks ties as trec_eval does.
    complete: False where a deadline ended the ranking early: what was not scored by then follows
        in the order it came in.
    passages: in the ranking's order; empty where only ids are known, as in a run that was read.
    positions: of each passage among the candidates, from 0; empty like `passages`.
    read: what a pointwise model read of each, None of what it did not score; empty where it does
        not say.
    reasoning: of each window that a listwise model explained.
    cost: None where nothing was computed.
    mended: kind → windows whose answer had to be mended (dear.prompts.permutations), "unreadable"
        where an answer held no ranking and its window kept its order.
    """

    query_id: str
    passage_ids: tuple[str, ...]
    scores: tuple[float, ...]
    complete: bool = True
    passages: tuple[Passage, ...] = field(default=(), compare=False, repr=False)
    positions: tuple[int, ...] = field(default=(), compare=False, repr=False)
    read: tuple[PairRead | None, ...] = field(default=(), compare=False, repr=False)
    reasoning: tuple[Reasoning, ...] = field(default=(), compare=False, repr=False)
    cost: RankingCost | None = field(default=None, compare=False, repr=False)
    mended: Mapping[str, int] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        if len(self.passage_ids) != len(self.scores):
            raise DataError(
                f"query {self.query_id!r}: {len(self.passage_ids)} passages, "
                f"{len(self.scores)} scores"
            )
        if len(set(self.passage_ids)) != len(self.passage_ids):
            seen: set[str] = set()
            twice = next(p for p in self.passage_ids if p in seen or seen.add(p))  # type: ignore[func-returns-value]
            raise DataError(f"query {self.query_id!r}: passage {twice!r} is ranked twice")
        for passage_id, score in zip(self.passage_ids, self.scores, strict=True):
            if not math.isfinite(score):
                raise DataError(f"query {self.query_id!r}, passage {passage_id!r}: score {score}")
        if any(a < b for a, b in zip(self.scores, self.scores[1:], strict=False)):
            raise DataError(f"query {self.query_id!r}: scores rise; use Ranking.sorted")
        for known in (self.passages, self.positions, self.read):
            if known and len(known) != len(self.passage_ids):
                raise DataError(
                    f"query {self.query_id!r}: {len(self.passage_ids)} ids, {len(known)} passages"
                )

    @classmethod
    def sorted(cls, query_id: str, passage_ids: Iterable[str], scores: Iterable[float]) -> Ranking:
        """Highest score first, ties by passage id descending (trec_eval's order)."""
        # two stable passes: descending id inside descending score
        pairs = sorted(zip(passage_ids, map(float, scores), strict=True), reverse=True)
        pairs.sort(key=lambda pair: -pair[1] if pair[1] == pair[1] else math.inf)
        return cls(
            query_id=query_id,
            passage_ids=tuple(p for p, _ in pairs),
            scores=tuple(s for _, s in pairs),
        )

    def top(self, k: int) -> Ranking:
        """The best k."""
        return replace(
            self,
            passage_ids=self.passage_ids[:k],
            scores=self.scores[:k],
            passages=self.passages[:k],
            positions=self.positions[:k],
            read=self.read[:k],
        )

    def to_list(self) -> list[dict[str, Any]]:
        """`[{"corpus_id": position, "id": …, "score": …, "text": …}]`, best first.

        As sentence-transformers' `CrossEncoder.rank` gives it, with the passage's own id beside
        its position among the candidates. DataError where the ranking knows ids alone.
        """
        if len(self.passages) != len(self) or len(self.positions) != len(self):
            raise DataError(f"query {self.query_id!r}: the ranking holds ids without passages")
        rows = zip(self.positions, self.passage_ids, self.scores, self.passages, strict=True)
        return [{"corpus_id": at, "id": i, "score": s, "text": p.full_text} for at, i, s, p in rows]

    def __len__(self) -> int:
        return len(self.passage_ids)


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidates:
    """One query with the passages to judge for it, texts included.

    scores: the first stage's, one for each passage, in the same order.
    unscored: no first stage gave them: they say the order given and nothing else.
    """

    query: Query
    passages: tuple[Passage, ...]
    scores: tuple[float, ...]
    unscored: bool = False

    def __post_init__(self) -> None:
        if len(self.passages) != len(self.scores):
            raise DataError(
                f"query {self.query.id!r}: {len(self.passages)} passages, {len(self.scores)} scores"
            )


Run: TypeAlias = Mapping[str, Ranking]
"""Query id → ranking."""

Judgements: TypeAlias = Mapping[str, Mapping[str, int]]
"""Query id → passage id → grade (qrels). Grade 0 and below: judged, not relevant."""


def gather(
    ranking: Ranking, queries: Mapping[str, Query], corpus: Mapping[str, Passage]
) -> Candidates:
    """The texts of a ranking. DataError names the id that is not there."""
    query = queries.get(ranking.query_id)
    if query is None:
        raise DataError(f"the run ranks for query {ranking.query_id!r}, which has no text")
    passages: list[Passage] = []
    for passage_id in ranking.passage_ids:
        passage = corpus.get(passage_id)
        if passage is None:
            raise DataError(
                f"query {ranking.query_id!r}: passage {passage_id!r} is not in the corpus"
            )
        passages.append(passage)
    return Candidates(query=query, passages=tuple(passages), scores=ranking.scores)


def count_pairs(run: Run) -> int:
    """Number of (query, passage) pairs in a run."""
    return sum(len(ranking) for ranking in run.values())


def every_nth(items: Iterable[T], count: int) -> list[T]:
    """At most `count` items, evenly spread: of a file that is sorted by topic, not one topic."""
    held = items if isinstance(items, Sequence) else list(items)
    step = max(1, len(held) // count)
    return list(held[: step * count : step])


def limit_run(
    run: Run, *, queries: int | None = None, top_k: int | None = None
) -> dict[str, Ranking]:
    """The first `queries` queries (in the run's order) and the best `top_k` of each."""
    ids: Sequence[str] = list(run)[:queries]
    return {q: run[q] if top_k is None else run[q].top(top_k) for q in ids}
