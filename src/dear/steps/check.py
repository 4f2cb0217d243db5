"""Robustness of a ranker: disturbed candidates and queries, and what becomes of the rankings."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dear.artifacts import versions
from dear.backends import BACKENDS
from dear.checkpoints.registry import check_model
from dear.data.collections import Collection, open_collection
from dear.data.formats import read_run
from dear.errors import ConfigError, DataError
from dear.evaluate import robustness
from dear.evaluate.robustness import RobustnessReport
from dear.rank.opening import RankerSpec, assemble, open_parts
from dear.rank.ranker import Ranker
from dear.records import Candidates, Judgements, Ranking, every_nth
from dear.steps.inputs import find_run, gathered
from dear.steps.options import CheckOptions
from dear.steps.progress import Watch, unwatched
from dear.steps.rank import listwise_values


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckedRanker:
    """What `check` found.

    ranker: the names that were given.  values: the report with its settings, for a JSON file.
    """

    ranker: str
    collection: str
    report: RobustnessReport
    seconds: float
    values: dict[str, Any]


def check(options: CheckOptions, *, watch: Watch = unwatched) -> CheckedRanker:
    """Check a ranker on some queries of a run; nothing is written.

    DataError: the run ranks nothing, or no query has two passages.
    """
    names = robustness.parse_checks(options.only)
    spec = _spec(options)
    if spec.model is not None:
        check_model(spec.model)
    collection = open_collection(options.collection)
    min_grade = collection.min_grade if options.min_grade is None else options.min_grade
    candidates, judgements = _candidates(collection, options, min_grade)
    parts = open_parts(spec, options.model_options.to_dict())
    ranker = _Reporting(assemble(spec, parts), watch)
    started = time.perf_counter()
    report = robustness.check(
        candidates,
        judgements,
        ranker,
        pointwise=parts.lists is None,
        only=names,
        min_grade=min_grade,
        seed=options.seed,
        before_check=ranker.begin,
    )
    seconds = time.perf_counter() - started
    lists = None
    if parts.lists is not None:
        lists = listwise_values(spec, parts.lists, one_backbone=parts.one_backbone)
    named = " + ".join(filter(None, (spec.model, _listwise(options))))
    return CheckedRanker(
        ranker=named,
        collection=collection.name,
        report=report,
        seconds=seconds,
        values={
            "model": named,
            "guard": spec.guard,
            "lists": lists,
            "collection": collection.name,
            "split": options.split,
            "run": options.run,
            "depth": options.depth,
            "seconds": round(seconds, 1),
            **report.to_dict(),
            "versions": versions(),
        },
    )


def _is_backend(model: str) -> bool:
    return model.partition(":")[0] in BACKENDS and not Path(model).exists()


def _listwise(options: CheckOptions) -> str | None:
    """The listwise backend as it was named."""
    return options.model if _is_backend(options.model) else options.listwise


def _spec(options: CheckOptions) -> RankerSpec:
    if _is_backend(options.model) and options.listwise is not None:
        raise ConfigError(f"{options.model} is a listwise backend: no --listwise behind it")
    return RankerSpec(
        model=None if _is_backend(options.model) else options.model,
        listwise=_listwise(options),
        fuse=options.fuse,
        **options.listwise_options.to_dict(),
    )


def _candidates(
    collection: Collection, options: CheckOptions, min_grade: int
) -> tuple[list[Candidates], Judgements]:
    """Of queries with a relevant passage, if there are any."""
    split = options.split
    found = read_run(find_run(collection, options.run, split), ties="written")
    judgements = collection.judgements(split) if collection.has_judgements(split) else {}
    judged = [
        q for q in found if any(grade >= min_grade for grade in judgements.get(q, {}).values())
    ]
    asked = every_nth(judged or found, options.queries)
    if not asked:
        raise DataError(f"the run {options.run!r} ranks nothing")
    run = {q: found[q].top(options.depth) for q in asked}
    return list(gathered(collection, run)), judgements


class _Reporting:
    """A ranker that reports its progress under the name of the check that is going on."""

    def __init__(self, ranker: Ranker, watch: Watch) -> None:
        self.ranker, self.watch = ranker, watch
        self.check = "unchanged"

    def begin(self, check: str) -> None:
        self.check = check

    def rank_candidates(self, candidates: Iterable[Candidates], /) -> Iterator[Ranking]:
        with self.watch(f"checking: {self.check}", "pairs") as report:
            yield from self.ranker.rank_candidates(candidates, progress=report)
