"""A listwise ranking and what it took, in one call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dear.backends import Backend
from dear.rank.listwise import ListwiseRanker
from dear.rank.ranker import Progress, Totals
from dear.records import Candidates, Ranking


def rank_listwise(
    candidates: Sequence[Candidates],
    backend: Backend,
    *,
    progress: Progress | None = None,
    **options: Any,
) -> tuple[list[Ranking], Totals]:
    ranker = ListwiseRanker(backend, **options)
    rankings = list(ranker.rank_candidates(candidates, progress=progress))
    return rankings, Totals.of(rankings)
