"""Several rankers as one: a weighted sum of their scores, each brought to a query's own scale."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from dear.data.z_scores import z_scores
from dear.errors import ConfigError
from dear.rank.fusion import check_weight
from dear.rank.ranker import Cancel, Progress, Ranker, check_top_k, reordered
from dear.records import Candidates, PairRead, Query, Ranking, RankingCost
from dear.retrieve.bm25 import Bm25Index


class MixtureRanker:
    """Weighted z-scores of several rankers and of the stage before.

    A score says how a passage compares with the others of its list, and means nothing outside it.

    parts: rankers with their weights.
    first_stage: weight of the scores that the candidates came with; where they came with none, of
        BM25 over the candidates themselves.
    name: in place of the parts' names.
    Where a deadline cut one ranker short, what all of them scored is mixed and the rest follows.
    """

    def __init__(
        self,
        parts: Sequence[tuple[Ranker, float]],
        first_stage: float = 0.0,
        *,
        name: str | None = None,
    ) -> None:
        if not parts:
            raise ConfigError("a mixture needs one ranker or more")
        for _, weight in parts:
            check_weight(weight)
        check_weight(first_stage)
        self.parts = tuple(parts)
        self.first_stage = first_stage
        self.name = self._described() if name is None else name

    def _described(self) -> str:
        alone = len(self.parts) == 1 and self.parts[0][1] == 1
        named = [r.name if alone else f"{weight:g} {r.name}" for r, weight in self.parts]
        return " + ".join(
            [*named, *([f"{self.first_stage:g} first stage"] * bool(self.first_stage))]
        )

    def rank_candidates(
        self,
        candidates: Iterable[Candidates],
        *,
        top_k: int | None = None,
        progress: Progress | None = None,
        deadline: float | None = None,
        cancel: Cancel | None = None,
    ) -> Iterator[Ranking]:
        """See `Ranker`. Equal scores keep the order of the first part."""
        check_top_k(top_k)  # now, not when the first ranking is asked for
        many = list(candidates)
        mixed = self._rankings(many, progress, deadline, cancel)
        return (ranking if top_k is None else ranking.top(top_k) for ranking in mixed)

    def _rankings(
        self,
        many: Sequence[Candidates],
        progress: Progress | None,
        deadline: float | None,
        cancel: Cancel | None,
    ) -> Iterator[Ranking]:
        rankings = []
        for at, (ranker, _) in enumerate(self.parts):
            ranked = ranker.rank_candidates(
                many,
                progress=_share(progress, at, len(self.parts)),
                deadline=deadline,
                cancel=cancel,
            )
            rankings.append(ranked if len(self.parts) == 1 else iter(list(ranked)))
        for one, *found in zip(many, *rankings, strict=True):
            yield self._mixed(one, found)

    def _mixed(self, candidates: Candidates, rankings: Sequence[Ranking]) -> Ranking:
        scored = [_scored(ranking) for ranking in rankings]
        # in the order of the first part, which ties keep
        places = [i for i in scored[0] if all(i in other for other in scored[1:])]
        mixed = np.zeros(len(places))
        for (_, weight), scores in zip(self.parts, scored, strict=True):
            mixed += weight * z_scores(np.array([scores[i] for i in places]))
        if self.first_stage and places:
            first = first_stage_scores(candidates)[places]
            mixed += self.first_stage * z_scores(first)
        order = np.argsort(-mixed, kind="stable")
        ranking = reordered(
            candidates,
            [places[i] for i in order],
            mixed[order].tolist(),
            complete=all(ranking.complete for ranking in rankings),
            read=_read(rankings, len(candidates.passages)),
            cost=replace(
                sum((r.cost for r in rankings if r.cost is not None), RankingCost()),
                pairs=len(places),
            ),
        )
        return replace(ranking, reasoning=rankings[0].reasoning, mended=rankings[0].mended)


def first_stage_scores(candidates: Candidates) -> NDArray[np.float64]:
    """(n,): those that they came with; BM25's over the candidates where they came with none."""
    if not candidates.unscored:
        return np.array(candidates.scores, dtype=np.float64)
    texts = {str(at): passage for at, passage in enumerate(candidates.passages)}
    query = Query(id="", text=candidates.query.text)
    found = Bm25Index(texts).score_passages({"": query}, {"": list(texts)})
    return np.array(list(found[""].values()), dtype=np.float64)


def _scored(ranking: Ranking) -> dict[int, float]:
    """Position among the candidates → score, best first; what was not scored is left out."""
    scored = len(ranking)
    if not ranking.complete and ranking.cost is not None:
        scored = ranking.cost.pairs
    return dict(zip(ranking.positions[:scored], ranking.scores, strict=False))


def _read(rankings: Sequence[Ranking], candidates: int) -> list[PairRead]:
    """What was read of each candidate, tokens of all parts together; nothing where one part does
    not say."""
    found = []
    for ranking in rankings:
        if len(ranking.read) < candidates or None in ranking.read:
            return []
        found.append(dict(zip(ranking.positions, ranking.read, strict=True)))
    return [
        PairRead(
            sum(read.tokens for one in found if (read := one[at]) is not None),
            any(read.cut for one in found if (read := one[at]) is not None),
        )
        for at in range(candidates)
    ]


def _share(progress: Progress | None, at: int, parts: int) -> Progress | None:
    """Of all parts together; each of them counts the same pairs."""
    if progress is None:
        return None
    return lambda done, total: progress(at * total + done, parts * total)
