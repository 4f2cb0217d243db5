"""The weight of the first stage's score: given, or chosen on judged dev queries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from dear.data.collections import Collection
from dear.data.documents import Documents, document_run
from dear.data.formats import read_run
from dear.errors import ConfigError, DataError
from dear.notices import say
from dear.rank.fusion import best_weight
from dear.rank.ranker import Ranker
from dear.records import Candidates, Judgements, Run, every_nth, limit_run
from dear.steps.inputs import find_run, gathered
from dear.steps.options import TOP_K, RankOptions
from dear.steps.progress import Watch, rank_watched
from dear.steps.retrieve import search_bm25


@dataclass(frozen=True, kw_only=True, slots=True)
class FuseWeight:
    """The weight of the first stage's score.

    means: weight → mean nDCG@10 on the dev queries; empty for a weight that was given.
    queries: how many dev queries chose it.
    """

    weight: float
    split: str
    means: Mapping[float, float] = field(default_factory=dict)
    queries: int = 0

    def to_dict(self) -> dict[str, Any]:
        """For the run's note."""
        chosen = {"split": self.split, "ndcg@10": {f"{w:g}": m for w, m in self.means.items()}}
        return {"weight": self.weight, "chosen_on": chosen if self.means else None}


@dataclass(frozen=True, slots=True)
class _DevQueries:
    """Judged queries with their candidates, on which the weight is chosen.

    documents: passage id → document id, of the collection."""

    run: Run
    candidates: list[Candidates]
    judgements: Judgements
    documents: Documents | None


def dev_queries(
    collection: Collection, options: RankOptions, first: Run, watch: Watch
) -> _DevQueries:
    """The dev run's judged queries.

    DataError: none is judged. ConfigError: one of them is in `first`, the run to be reranked.
    """
    split = options.fuse_split
    judgements = collection.judgements(split)
    found = _dev_run(collection, options, watch)
    judged = {q: ranking for q, ranking in found.items() if q in judgements}
    if not judged:
        raise DataError(f"--fuse auto: no query of the dev run is judged in split {split!r}")
    shared = next((q for q in judged if q in first), None)
    if shared is not None:
        raise ConfigError(
            f"--fuse auto: query {shared!r} is ranked and would choose the weight, too; take "
            "another --fuse-split or --fuse-run"
        )
    picked = every_nth(judged, options.fuse_queries)
    run = limit_run({q: judged[q] for q in picked}, top_k=options.top_k)
    return _DevQueries(
        run, list(gathered(collection, run)), {q: judgements[q] for q in run}, collection.documents
    )


def _dev_run(collection: Collection, options: RankOptions, watch: Watch) -> Run:
    """The dev run that is named; else the split's run of the same name, its BM25, or a new one."""
    split = options.fuse_split
    if options.fuse_run is not None:
        return read_run(find_run(collection, options.fuse_run, split), ties="written")
    own = collection.runs(split)
    for name in (options.run, "bm25"):
        if name in own:
            return read_run(own[name], ties="written")
    say(f"--fuse auto: no run for split {split!r}; searching it with BM25")
    with watch("searching", "queries") as report:
        return search_bm25(collection, split, top_k=options.top_k or TOP_K, progress=report)


def choose_weight(
    ranker: Ranker, dev: _DevQueries, options: RankOptions, watch: Watch
) -> FuseWeight:
    """The weight with the best nDCG@10 on the dev queries; of documents where they are ranked."""
    reranked = rank_watched(ranker, dev.candidates, watch, "ranking dev")
    finish = None if options.aggregate is None else partial(document_run, documents=dev.documents)
    weight, means = best_weight(reranked, dev.run, dev.judgements, finish=finish)
    return FuseWeight(
        weight=weight, split=options.fuse_split, means=means, queries=len(dev.candidates)
    )
