"""What is checked: candidates, judgements, and the function that ranks."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np

from dear.errors import DataError
from dear.evaluate.compare import Comparison, compare
from dear.evaluate.metrics import Evaluation, evaluate
from dear.evaluate.robustness.report import Line
from dear.records import Candidates, Judgements, Passage, Query, Ranking

Rank: TypeAlias = Callable[[Sequence[Candidates]], Iterable[Ranking]]
"""Candidates to a Ranking each, in order; every passage is in its ranking."""

NDCG = "nDCG@10"


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A ranker at its work.

    candidates: one of a query each, two passages or more, as the stage before left them.
    rank:       what is checked.
    pointwise:  scores are those of the pair alone and may be compared between rankings; else only
                the order counts.
    base:       query id → the ranking of `candidates` as they are.
    top:        so many places are "the top": 10, or half of the smallest list.
    """

    candidates: Sequence[Candidates]
    judgements: Judgements
    rank: Rank
    pointwise: bool
    base: Mapping[str, Ranking]
    top: int
    min_grade: int = 1
    seed: int = 0
    judged: Judgements = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        candidates: Sequence[Candidates],
        judgements: Judgements,
        rank: Rank,
        *,
        pointwise: bool,
        min_grade: int,
        seed: int,
    ) -> Subject:
        """With its base ranked. Whatever `rank` raises."""
        return cls(
            candidates=candidates,
            judgements=judgements,
            rank=rank,
            pointwise=pointwise,
            base={r.query_id: r for r in _whole(candidates, rank)},
            top=max(1, min(10, min(len(c.passages) for c in candidates) // 2)),
            min_grade=min_grade,
            seed=seed,
            judged={
                c.query.id: judgements[c.query.id]
                for c in candidates
                if any(grade > 0 for grade in judgements.get(c.query.id, {}).values())
            },
        )

    def rng(self, *names: object) -> random.Random:
        """The same for the same names and seed, whatever else was drawn."""
        return random.Random(":".join(map(str, (self.seed, *names))))

    def rank_all(
        self, variants: Mapping[str, Sequence[Candidates]]
    ) -> dict[str, dict[str, Ranking] | str]:
        """Name → query id → ranking, or why there is none, for each variant.

        They are ranked in one go, so that what several share is computed once; if that fails,
        one by one.
        """
        named = [
            (name, replace(c, query=Query(id=f"{c.query.id} ({name})", text=c.query.text)))
            for name, many in variants.items()
            for c in many
        ]
        found: dict[str, dict[str, Ranking] | str] = {}
        try:
            rankings = _whole([c for _, c in named], self.rank)
        except Exception as error:  # a crash is what is looked for
            if len(variants) == 1:
                return dict.fromkeys(variants, _said(error))
            for name, many in variants.items():
                found |= self.rank_all({name: many})
            return found
        at = iter(rankings)
        for name, many in variants.items():
            found[name] = {c.query.id: replace(next(at), query_id=c.query.id) for c in many}
        return found

    def relevant(self, candidates: Candidates) -> Passage | None:
        """The best placed relevant passage; None where there is none."""
        grades = self.judgements.get(candidates.query.id, {})
        ids = self.base[candidates.query.id].passage_ids
        return _first(candidates, (i for i in ids if grades.get(i, 0) >= self.min_grade))

    def best(self, candidates: Candidates) -> Passage | None:
        """The best placed relevant passage, or the first one where the query is not judged."""
        if candidates.query.id in self.judged:
            return self.relevant(candidates)
        return _first(candidates, self.base[candidates.query.id].passage_ids)

    def lowest(self, candidates: Candidates, but: str = "") -> Passage:
        """The worst placed passage, the one with id `but` aside."""
        ids = reversed(self.base[candidates.query.id].passage_ids)
        found = _first(candidates, (i for i in ids if i != but))
        assert found is not None  # there are two
        return found

    def irrelevant(self, candidates: Candidates) -> Passage | None:
        """The worst placed passage below the top without a grade above 0; one that is relevant in
        part has some right to climb, whatever `min_grade` says."""
        grades = self.judgements.get(candidates.query.id, {})
        below = self.base[candidates.query.id].passage_ids[self.top :]
        return _first(candidates, (i for i in reversed(below) if grades.get(i, 0) < 1))

    @property
    def base_evaluation(self) -> Evaluation | None:
        return evaluate(self.base, self.judged, [NDCG]) if self.judged else None

    def ndcg(self, rankings: Mapping[str, Ranking]) -> Comparison | None:
        """nDCG@10 of the rankings (a) against the base's (b), over judged queries that both have;
        None where there are fewer than two."""
        judged = {q: grades for q, grades in self.judged.items() if q in rankings}
        if len(judged) < 2:
            return None
        before = evaluate(self.base, judged, [NDCG])
        after = evaluate(rankings, judged, [NDCG])
        return compare(after, before, NDCG, permutations=10_000, samples=2000, seed=self.seed)

    def by_ndcg(self, check: str, name: str, found: dict[str, Ranking] | str) -> Line:
        """A line by the nDCG lost, or by the pairs that turned where relevance is not known.

        Passages must have kept their ids.
        """
        if isinstance(found, str):
            return Line(check=check, name=name, count=0, error=found)
        turned = mean(pairs_turned(self.base[q], ranking) for q, ranking in found.items())
        comparison = self.ndcg(found)
        # + 0.0: no -0.0
        lost = None if comparison is None else -comparison.difference + 0.0
        return Line(
            check=check,
            name=name,
            count=len(found),
            value=turned if lost is None else lost,
            limit="pairs turned" if lost is None else "nDCG lost",
            numbers={"pairs turned": turned, "same top": self.same_top(found)},
            comparison=comparison,
        )

    def same_top(self, rankings: Mapping[str, Ranking]) -> float:
        """Share of queries whose top holds the same passages in the same order as the base's."""
        top = self.top
        return mean(
            r.passage_ids[:top] == self.base[q].passage_ids[:top] for q, r in rankings.items()
        )


def _whole(candidates: Sequence[Candidates], rank: Rank) -> list[Ranking]:
    """The rankings. DataError where passages are lost or made up."""
    rankings = list(rank(candidates))
    if len(rankings) != len(candidates):
        raise DataError(f"{len(rankings)} rankings for {len(candidates)} queries")
    for c, ranking in zip(candidates, rankings, strict=True):
        if sorted(ranking.passage_ids) != sorted(p.id for p in c.passages):
            raise DataError(f"query {c.query.id!r}: the ranking does not hold its passages")
    return rankings


def _first(candidates: Candidates, ids: Iterable[str]) -> Passage | None:
    by_id = {p.id: p for p in candidates.passages}
    return next((by_id[i] for i in ids), None)


def _said(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text if len(text) < 300 else text[:299] + '…'}"


def mean(values: Iterable[float]) -> float:
    """0 where there is none."""
    held = list(values)
    return float(sum(held) / len(held)) if held else 0.0


def pairs_turned(a: Ranking, b: Ranking) -> float:
    """Share of the passage pairs that the two order differently: (1 - Kendall's tau) / 2.

    0 for the same order, 1 for the reverse; over passages in both, 0 where those are fewer
    than two.
    """
    place = {i: n for n, i in enumerate(b.passage_ids)}
    places = np.array([place[i] for i in a.passage_ids if i in place])
    n = len(places)
    if n < 2:
        return 0.0
    turned = int(np.triu(places[:, None] > places[None, :], 1).sum())
    return turned / (n * (n - 1) / 2)


def place(ranking: Ranking, passage_id: str) -> int:
    """Counted from 1."""
    return ranking.passage_ids.index(passage_id) + 1


def changed(candidates: Candidates, passage: Passage, *, instead: str = "") -> Candidates:
    """With `passage` in the place of the one with its id, or with the id `instead`."""
    out = instead or passage.id
    return replace(
        candidates,
        passages=tuple(passage if p.id == out else p for p in candidates.passages),
    )


def asking(candidates: Candidates, text: str) -> Candidates:
    """With another query text."""
    return replace(candidates, query=replace(candidates.query, text=text))
