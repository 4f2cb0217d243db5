"""Chunk-and-max: documents ranked by their best passage."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from dear.data.documents import Documents, best_passages
from dear.rank.ranker import Cancel, Progress, Ranker, check_top_k
from dear.records import Candidates, Ranking


class BestPassage:
    """Ranks candidates that are passages of documents, and gives the documents: the score and the
    text of each are its best passage's (MaxP, Dai and Callan 2019).

    documents: passage id → document id; where None, `DOC#3` is a passage of `DOC`.
    """

    def __init__(self, ranker: Ranker, documents: Documents | None = None) -> None:
        self.ranker, self.documents = ranker, documents

    @property
    def name(self) -> str:
        return self.ranker.name

    def rank_candidates(
        self,
        candidates: Iterable[Candidates],
        *,
        top_k: int | None = None,
        progress: Progress | None = None,
        deadline: float | None = None,
        cancel: Cancel | None = None,
    ) -> Iterator[Ranking]:
        """See `Ranker`; top_k counts documents."""
        check_top_k(top_k)
        ranked = self.ranker.rank_candidates(
            candidates, progress=progress, deadline=deadline, cancel=cancel
        )
        found = (best_passages(ranking, self.documents) for ranking in ranked)
        return (ranking if top_k is None else ranking.top(top_k) for ranking in found)
