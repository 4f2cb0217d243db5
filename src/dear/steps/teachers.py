"""Which models of this machine teach a distillation, or are measured beside it.

Strength is judged by what is known without running anything: cross-encoders before bi-encoders,
then size. Whether a model can do the work in the time given is measured, on a few pairs.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from dear.artifacts import read_json, write_json
from dear.checkpoints.hardware import computes_in, free_memory, pick_device, pick_dtype
from dear.checkpoints.present import PresentModel, present_models
from dear.data.collections import Collection
from dear.digests import Input
from dear.errors import DearError
from dear.notices import collected
from dear.records import Run, count_pairs, every_nth, gather
from dear.scoring.encoding import Pair
from dear.scoring.opening import PairModel, open_model
from dear.steps.stages import Stages, file_digest_of

PROBED = 256
"""Pairs that a fast model is timed on; a slow one scores FEW."""
FEW = 4
ENOUGH_S = 1.0
"""A probe of at least so many seconds says how fast a model is."""

OTHERS_SHARE = 0.1
"""Of the teacher's minutes: what each reranker that is only measured may take."""

ROOM = 1.2
"""A model needs so many times the memory of its weights."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Able:
    """A model that can do the work in time. seconds: that it should take."""

    model: PresentModel
    seconds: float


class Choices:
    """Models of this machine, chosen by what they are and timed on the first stage's candidates.

    A choice is a stage of the distillation: it stays what it was, whatever is measured later.

    run: candidates of the test queries.  minutes: that the teacher may work.
    """

    def __init__(self, stages: Stages, collection: Collection, run: Run, minutes: float) -> None:
        self._stages, self._collection, self._run = stages, collection, run
        self._limit = 60 * minutes
        self._paces: dict[str, float | str] = {}

    def teacher(self, pairs: int) -> str | None:
        """The strongest that scores `pairs` in time, as `--model` takes it; None: none does."""

        def choose() -> dict[str, Any]:
            models = present_models()
            found, passed = self._able(models, pairs, self._limit, most=1)
            limit = f"{pairs:,} pairs in {hours(self._limit)}"
            if found:
                one = found[0]
                said = (
                    f"the teacher is {one.model.name}, the strongest model here that labels "
                    f"{limit}: they should take {hours(one.seconds)}"
                )
            elif models:
                said = f"the teacher is the recipe's own: no public model here labels {limit}"
            else:
                said = "the teacher is the recipe's own: no public model is here (`dear models`)"
            return {"models": [one.model.spec for one in found], "said": _with(said, passed)}

        return next(iter(self._kept("teacher", choose)), None)

    def others(self, most: int, *, but: str) -> list[str]:
        """The strongest rerankers that rank the run in OTHERS_SHARE of the time, as `--model` takes
        them. but: one that is measured anyway."""
        models = [m for m in present_models() if m.kind == "reranker" and m.spec != but]
        if not most or not models:
            return []

        def choose() -> dict[str, Any]:
            pairs, limit = count_pairs(self._run), self._limit * OTHERS_SHARE
            found, passed = self._able(models, pairs, limit, most)
            names = [one.model.spec for one in found]
            said = f"measured, too: {', '.join(names) or 'no public reranker of this machine'}"
            return {"models": names, "said": _with(said, passed)}

        return self._kept("others", choose)

    def _kept(self, what: str, choose: Callable[[], dict[str, Any]]) -> list[str]:
        path = self._stages.folder / "chosen" / f"{what}.json"

        def work() -> dict[str, Any]:
            write_json(path, choose())
            return {}

        inputs = {"limit": Input.of_values({"seconds": self._limit})}
        self._stages.run(f"choose {what}", inputs, work, path, file_digest_of)
        found = read_json(path)
        self._stages.note(found["said"])
        return list(found["models"])

    def _able(
        self, models: Iterable[PresentModel], pairs: int, seconds: float, most: int
    ) -> tuple[list[Able], list[str]]:
        """(the first `most` of the models that score so many pairs in time, why each before the
        last of them does not)"""
        found: list[Able] = []
        passed: list[str] = []
        for model in models:
            if len(found) == most:
                break
            pace = self._pace(model)
            if isinstance(pace, str):
                passed.append(f"{model.name} ({pace})")
            elif pairs / pace > seconds:
                passed.append(f"{model.name} ({pairs:,} pairs would take {hours(pairs / pace)})")
            else:
                found.append(Able(model=model, seconds=pairs / pace))
        return found, passed

    def _pace(self, model: PresentModel) -> float | str:
        """Pairs a second, or why there are none."""
        if model.spec not in self._paces:
            self._paces[model.spec] = _memory_lacks(model) or self._timed(model)
            gc.collect()  # the model is gone before the next one comes
        return self._paces[model.spec]

    def _timed(self, model: PresentModel) -> float | str:
        try:
            with collected():  # what is to be known of a model is said when it is used
                return _pairs_per_s(open_model(model.spec), self._pairs)
        except DearError as error:
            return str(error).removeprefix(f"{model.name}: ")
        except (MemoryError, torch.cuda.OutOfMemoryError):
            return "it does not fit into memory"

    @cached_property
    def _pairs(self) -> list[Pair]:
        """At most PROBED, of queries that are evenly spread over the run."""
        queries, corpus = self._collection.queries(), self._collection.corpus
        each = max(1, PROBED // len(self._run))
        candidates = [
            gather(ranking.top(each), queries, corpus)
            for ranking in every_nth(self._run.values(), PROBED)
        ]
        return [(one.query.text, p.full_text) for one in candidates for p in one.passages]


def _with(said: str, passed: Sequence[str]) -> str:
    return f"{said}; passed over: {', '.join(passed)}" if passed else said


def hours(seconds: float) -> str:
    """As a person plans: "9 h", "12 min", "1 min"."""
    minutes = max(1, round(seconds / 60))
    return f"{minutes} min" if minutes < 120 else f"{round(seconds / 3600):,} h"


def _pairs_per_s(model: PairModel, pairs: Sequence[Pair]) -> float:
    count = FEW
    while True:
        started = time.perf_counter()
        model.score(pairs[:count])
        seconds = time.perf_counter() - started
        if seconds > ENOUGH_S or count >= len(pairs):
            return min(count, len(pairs)) / seconds
        count *= 4


def _memory_lacks(model: PresentModel) -> str:
    """Why a model does not fit into memory; "" where it does, or nobody knows."""
    device = pick_device("auto")
    dtype = computes_in(pick_dtype("auto", device), device)
    wanted = ROOM * model.parameters * dtype.itemsize
    free = free_memory(device)
    if free is None or wanted <= free:
        return ""
    return f"it needs {wanted / 2**30:.1f} GiB of memory, {free / 2**30:.1f} are free"
