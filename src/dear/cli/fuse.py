"""`dear rank --fuse`: the weight of the first stage's score, given or chosen on dev queries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from dear.cli.output import count, note
from dear.cli.progress import progress
from dear.data.formats import read_run
from dear.errors import ConfigError, DataError
from dear.records import every_nth, limit_run
from dear.retrieve.bm25 import retrieve
from dear.steps.inputs import find_run, gathered
from dear.steps.options import TOP_K
from dear.steps.retrieve import bm25_options

if TYPE_CHECKING:
    from dear.data.collections import Collection
    from dear.rank.ranker import Ranker
    from dear.records import Candidates, Judgements, Ranking, Run

FUSE_QUERIES = 200


def parse_weight(fuse: str | None) -> float | Literal["auto"] | None:
    if fuse is None:
        return None
    if fuse == "auto":
        return "auto"
    try:
        weight = float(fuse)
    except ValueError:
        weight = -1.0
    if not 0 <= weight < float("inf"):
        raise ConfigError(f"--fuse {fuse!r}: expected auto, or a number that is 0 or more")
    return weight


def rank_all(
    ranker: Ranker, candidates: list[Candidates], what: str, unit: str = "pairs"
) -> dict[str, Ranking]:
    with progress(what, unit) as report:
        rankings = ranker.rank_candidates(candidates, progress=report)
        return {ranking.query_id: ranking for ranking in rankings}


@dataclass(frozen=True, slots=True)
class DevQueries:
    """Judged queries with their candidates, on which the weight is chosen."""

    run: Run
    candidates: list[Candidates]
    judgements: Judgements


def dev_queries(
    collection: Collection,
    run: str,
    fuse_run: str | None,
    split: str,
    ranked: Run,
    *,
    queries: int,
    top_k: int | None,
) -> DevQueries:

    judgements = collection.judgements(split)
    found = _dev_run(collection, run, fuse_run, split, top_k or TOP_K)
    judged = {q: ranking for q, ranking in found.items() if q in judgements}
    if not judged:
        raise DataError(f"--fuse auto: no query of the dev run is judged in split {split!r}")
    shared = next((q for q in judged if q in ranked), None)
    if shared is not None:
        raise ConfigError(
            f"--fuse auto: query {shared!r} is ranked and would choose the weight, too; take "
            "another --fuse-split or --fuse-run"
        )
    picked = limit_run({q: judged[q] for q in every_nth(judged, queries)}, top_k=top_k)
    return DevQueries(picked, gathered(collection, picked), {q: judgements[q] for q in picked})


def _dev_run(collection: Collection, run: str, fuse_run: str | None, split: str, top_k: int) -> Run:
    """The dev run that is named; else the split's run of the same name, its BM25, or a new one."""

    if fuse_run is not None:
        return read_run(find_run(collection, fuse_run, split), ties="written")
    own = collection.runs(split)
    for name in (run, "bm25"):
        if name in own:
            return read_run(own[name], ties="written")
    note(f"--fuse auto: no run for split {split!r}; searching it with BM25")
    with progress("searching", "queries") as report:
        return retrieve(
            collection.corpus,
            collection.queries(split),
            top_k=top_k,
            options=bm25_options(collection.name),
            progress=report,
        )


def chosen_weight(ranker: Ranker, dev: DevQueries) -> tuple[float, dict[float, float]]:
    from dear.rank.fusion import best_weight

    reranked = rank_all(ranker, dev.candidates, "ranking dev")
    return best_weight(reranked, dev.run, dev.judgements)


def curve_line(weight: Any, curve: Mapping[float, float], dev: DevQueries, split: str) -> str:
    tried = "  ".join(f"{w:g}: {mean:.4f}" for w, mean in curve.items())
    queries = count(len(dev.candidates), "query")
    return f"fuse weight {weight:g}, by nDCG@10 of {queries} of {split}\n  {tried}"


def fuse_values(weight: Any, curve: Mapping[float, float], split: str) -> dict[str, Any]:
    chosen = {"split": split, "ndcg@10": {f"{w:g}": mean for w, mean in curve.items()}}
    return {"weight": weight, "chosen_on": chosen if curve else None}
