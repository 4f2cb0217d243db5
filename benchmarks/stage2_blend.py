"""How much of the pointwise model's score a cascade keeps, chosen on queries that nobody tests."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from stage1 import slug

from dear.data.formats import read_run, write_run
from dear.rank.fusion import best_weight, fuse_runs
from dear.rank.reranker import Reranker
from dear.records import Run, every_nth, gather

if TYPE_CHECKING:
    from stage2_test import ListTest

DEV = (("nfcorpus", "dev"), ("scifact", "train"), ("dl21", "test"))
"""Judged queries that are not tested; the student was trained on the last two, so that they speak
for its scores. nfcorpus alone says 0 (docs/LOG.md)."""
WEIGHTS = (0.0, 0.5, 1.0, 2.0, 3.0, 5.0, 8.0)


def dev_points(test: ListTest, name: str, split: str) -> Run:
    """The pointwise model's rankings of some dev queries, kept."""
    model = test.options.pointwise
    path = test.work / "runs" / f"{test.bench.kept_as(model)}.{name}-{split}.{test.deep}.trec"
    if not path.exists():
        collection = test.bench.collection(name)
        run, judged = collection.run("bm25", split), collection.judgements(split)
        asked = every_nth(sorted(q for q in run if q in judged), test.options.test_queries)
        queries, corpus = collection.queries(), collection.corpus
        texts = [gather(run[q].top(test.deep.depth), queries, corpus) for q in asked]
        ranked = Reranker(model).rank_candidates(texts)
        write_run(path, {r.query_id: r for r in ranked}, slug(model))
    return read_run(path)


def dev_weight(test: ListTest, model: str, reading: str) -> tuple[float, dict[float, float]]:
    """(the weight with the best nDCG@10, the mean over the dev sets; every weight's)."""
    curves = []
    for name, split in DEV:
        top = test.sample.depth
        points = {q: ranking.top(top) for q, ranking in dev_points(test, name, split).items()}
        label = f"{split}-{slug(test.bench.kept_as(test.options.pointwise))}-{test.deep.depth}"
        lists, _ = test.asked(model, reading, name, label, points)
        judged = test.bench.collection(name).judgements(split)
        _, curve = best_weight(lists, points, {q: judged[q] for q in points}, WEIGHTS)
        curves.append(curve)
    means = {w: statistics.fmean(curve[w] for curve in curves) for w in WEIGHTS}
    return max(means, key=lambda w: (means[w], -w)), means


def blended(lists: Run, points: Run, weight: float) -> Run:
    """What a ListwiseRanker with `fuse_weight=weight` gives, from kept rankings."""
    return fuse_runs(lists, points, weight)
