"""The ranker under test at work, and what a check found, with its verdict."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np

from dear.errors import DataError
from dear.evaluate.compare import Comparison, compare
from dear.evaluate.metrics import Evaluation, evaluate
from dear.records import Candidates, Judgements, Passage, Query, Ranking

Verdict: TypeAlias = Literal["holds", "sensitive", "fails"]

VERDICTS: tuple[Verdict, ...] = ("holds", "sensitive", "fails")
"""From good to bad."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limit:
    """A value up to `holds` holds, up to `sensitive` is sensitive, above it fails."""

    says: str
    holds: float
    sensitive: float

    def verdict(self, value: float) -> Verdict:
        if value <= self.holds:
            return "holds"
        return "sensitive" if value <= self.sensitive else "fails"


LIMITS: Mapping[str, Limit] = {
    "score change": Limit(
        says="largest change of a score, as a share of the scores' range",
        holds=1e-5,
        sensitive=0.01,
    ),
    "pairs turned": Limit(
        says="share of passage pairs whose order changes, (1 - Kendall's tau) / 2",
        holds=0.05,
        sensitive=0.15,
    ),
    "nDCG lost": Limit(says="mean nDCG@10 lost", holds=0.01, sensitive=0.05),
    "nDCG spread": Limit(
        says="best less worst mean nDCG@10 over the orders", holds=0.01, sensitive=0.05
    ),
    "reached the top": Limit(
        says="share of passages from below that enter the top", holds=0.05, sensitive=0.25
    ),
    "places apart": Limit(
        says="mean places between a passage and its near-duplicate", holds=1.0, sensitive=3.0
    ),
    "places fallen": Limit(says="mean places that the passage falls", holds=1.0, sensitive=3.0),
    "in the top": Limit(
        says="share of queries with the passage in the top", holds=0.05, sensitive=0.25
    ),
    "crashes": Limit(says="rankings that could not be made", holds=0.0, sensitive=0.0),
}
"""What verdicts are given by. They are conventions: each line's value stands beside its own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One thing that was tried.

    value: what the verdict is by, in the unit of `LIMITS[limit]`; None where nothing was ranked.
    limit: None where there is no verdict: a control.  count: queries that it is a mean over.
    numbers: whatever else was measured.  comparison: nDCG@10 of the changed ranking (a) against
    that of the unchanged one (b), where relevance is known.  error: why nothing was ranked.
    """

    check: str
    name: str
    count: int
    value: float | None = None
    limit: str | None = None
    numbers: Mapping[str, float] = field(default_factory=dict)
    comparison: Comparison | None = None
    error: str = ""

    @property
    def verdict(self) -> Verdict | None:
        if self.error:
            return "fails"
        if self.limit is None or self.value is None:
            return None
        return LIMITS[self.limit].verdict(self.value)

    def to_dict(self) -> dict[str, Any]:
        return {
            "check": self.check,
            "name": self.name,
            "verdict": self.verdict,
            "by": self.limit,
            "value": self.value,
            "queries": self.count,
            "numbers": dict(self.numbers),
            "comparison": None if self.comparison is None else asdict(self.comparison),
            "error": self.error or None,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class RobustnessReport:
    """What `check` found.

    pointwise: whether scores were compared, or the order alone.  top: places that are "the top".
    ndcg: mean nDCG@10 of the unchanged rankings; None where no query is judged.
    lines: by check, in the order of CHECKS.  notes: what was left out, and why.
    """

    pointwise: bool
    queries: int
    passages: int
    judged: int
    top: int
    seed: int
    ndcg: float | None
    lines: tuple[Line, ...]
    notes: tuple[str, ...] = ()

    def verdict(self, check: str | None = None) -> Verdict | None:
        """The worst of a check's lines, or of all; None where none has a verdict."""
        found = [
            line.verdict
            for line in self.lines
            if line.verdict is not None and check in (None, line.check)
        ]
        return _worst(found)

    @property
    def checks(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(line.check for line in self.lines))

    @property
    def limits(self) -> dict[str, Limit]:
        """What the verdicts are by: those of LIMITS that the lines name."""
        return {line.limit: LIMITS[line.limit] for line in self.lines if line.limit}

    def to_dict(self) -> dict[str, Any]:
        """For a JSON file."""
        return {
            "pointwise": self.pointwise,
            "queries": self.queries,
            "passages": self.passages,
            "judged_queries": self.judged,
            "top": self.top,
            "seed": self.seed,
            "ndcg": self.ndcg,
            "verdict": self.verdict(),
            "checks": {check: self.verdict(check) for check in self.checks},
            "lines": [line.to_dict() for line in self.lines],
            "limits": {name: asdict(limit) for name, limit in LIMITS.items()},
            "notes": list(self.notes),
        }


def _worst(verdicts: Sequence[Verdict]) -> Verdict | None:
    return max(verdicts, key=VERDICTS.index, default=None)


class CandidateRanker(Protocol):
    """What is checked: the part of `dear.rank.ranker.Ranker` that a check calls."""

    def rank_candidates(self, candidates: Sequence[Candidates], /) -> Iterable[Ranking]:
        """A Ranking for each query, in order; every passage is in its ranking."""
        ...


NDCG = "nDCG@10"


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A ranker at its work.

    candidates: one of a query each, two passages or more, as the stage before left them.
    ranker:     what is checked.
    pointwise:  scores are those of the pair alone and may be compared between rankings; else only
                the order counts.
    base:       query id → the ranking of `candidates` as they are.
    top:        so many places are "the top": 10, or half of the smallest list.
    """

    candidates: Sequence[Candidates]
    judgements: Judgements
    ranker: CandidateRanker
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
        ranker: CandidateRanker,
        *,
        pointwise: bool,
        min_grade: int,
        seed: int,
    ) -> Subject:
        """With its base ranked. Whatever `ranker` raises."""
        return cls(
            candidates=candidates,
            judgements=judgements,
            ranker=ranker,
            pointwise=pointwise,
            base={r.query_id: r for r in _whole(candidates, ranker)},
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
            rankings = _whole([c for _, c in named], self.ranker)
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


def _whole(candidates: Sequence[Candidates], ranker: CandidateRanker) -> list[Ranking]:
    """The rankings. DataError where passages are lost or made up."""
    rankings = list(ranker.rank_candidates(candidates))
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
