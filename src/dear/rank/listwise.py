"""Candidates, a strategy, a prompt and a backend to rankings."""

from __future__ import annotations

import itertools
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from dear.backends import Backend, Completion, OnAnswer
from dear.errors import BackendError, ConfigError, ParseError, nearest
from dear.prompts.listwise import LISTWISE_PROMPTS, ListwisePrompt
from dear.prompts.permutations import parse_permutation
from dear.rank.fusion import check_weight, fuse
from dear.rank.strategies import Sliding, Strategy, Window, drive
from dear.records import Candidates, Ranking

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]

BATCH_WINDOWS = 256
"""Windows that a backend is handed at once."""


@dataclass(kw_only=True, slots=True)
class ListwiseReport:
    """What ranking took, and what had to be mended.

    windows: those that were asked about, which is the number of completions.
    rounds: how often windows were handed out together; one follows from the answers of another.
    mends: kind → how many, as `Parsed` counts them; an answer that ended for its length is "cut
        off".  mended: windows with a mend other than a stripped thought.
    parse_errors: windows whose answer held no ranking; they kept their order.
    prompt_tokens, completion_tokens: of the windows whose backend said.
    """

    queries: int
    windows: int = 0
    rounds: int = 0
    mended: int = 0
    parse_errors: int = 0
    mends: Counter[str] = field(default_factory=Counter)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """For a run's note."""
        return asdict(self) | {
            "mends": dict(sorted(self.mends.items())),
            "seconds": round(self.seconds, 3),
        }

    def count(self, kinds: Counter[str]) -> None:
        """One window's mends."""
        self.mends.update(kinds)
        self.mended += any(kind != "thought stripped" for kind in kinds)


def rank_listwise(
    candidates: Sequence[Candidates],
    backend: Backend,
    *,
    strategy: Strategy | None = None,
    prompt: str | ListwisePrompt = "rankvicuna",
    depth: int | None = None,
    blend: float = 0.0,
    batch_windows: int = BATCH_WINDOWS,
    progress: Progress | None = None,
) -> tuple[list[Ranking], ListwiseReport]:
    """(a Ranking for each query, in order; the report).

    candidates: best first, as the stage before left them.
    strategy: sliding windows of 20, step 10, where None.
    prompt: one of LISTWISE_PROMPTS by name, or one of your own.
    depth: the best so many are ranked, the others follow in their order; all where None.
    blend: so many times the candidates' own scores are added to the places that the lists give,
        both normalised over those that were ranked, as `dear.rank.fusion.fuse` does; 0 takes the
        lists' word alone.
    progress: called with (windows done, windows at most).

    Scores say no more than the order: n for the best of n candidates, 1 for the last. The same
    answers give the same rankings. ConfigError: an unknown prompt, a depth or a batch below 1,
    a blend below 0;
    BackendError: what the backend raises.
    """
    if depth is not None and depth < 1:
        raise ConfigError(f"depth must be 1 or more, not {depth}")
    if batch_windows < 1:
        raise ConfigError(f"batch_windows must be 1 or more, not {batch_windows}")
    check_weight(blend)
    strategy = Sliding() if strategy is None else strategy
    template = _template(prompt)
    report = ListwiseReport(queries=len(candidates))
    sizes = [len(c.passages[:depth]) for c in candidates]
    most = sum(map(strategy.calls, sizes))
    started = time.perf_counter()

    def ask(asked: Sequence[tuple[int, Window]]) -> list[Window]:
        report.rounds += 1
        orders: list[Window] = []
        for i in range(0, len(asked), batch_windows):
            batch = asked[i : i + batch_windows]
            prompts = [
                template.render(candidates[q].query, [candidates[q].passages[p] for p in window])
                for q, window in batch
            ]
            answered = _counter(progress, report.windows, most)
            completions = backend.generate(prompts, answered)
            if len(completions) != len(prompts):
                raise BackendError(
                    f"{backend.name}: {len(completions)} answers to {len(prompts)} prompts"
                )
            for (q, window), completion in zip(batch, completions, strict=True):
                orders.append(_order(window, completion, template, candidates[q].query.id, report))
            report.windows += len(batch)
            if progress is not None:
                progress(report.windows, most)
        return orders

    orders: list[Window] = drive([strategy.plan(size) for size in sizes], ask)
    if blend:
        orders = [_blended(c, order, blend) for c, order in zip(candidates, orders, strict=True)]
    report.seconds = time.perf_counter() - started
    if progress is not None and report.windows:
        progress(report.windows, report.windows)
    rankings = [_ranking(c, order) for c, order in zip(candidates, orders, strict=True)]
    return rankings, report


def _counter(progress: Progress | None, before: int, most: int) -> OnAnswer | None:
    """Reports each answer of a batch to `progress`; `before`: windows before the batch."""
    if progress is None:
        return None
    done = itertools.count(before + 1)
    return lambda _place, _completion: progress(next(done), most)


def _template(prompt: str | ListwisePrompt) -> ListwisePrompt:
    if isinstance(prompt, ListwisePrompt):
        return prompt
    if prompt not in LISTWISE_PROMPTS:
        raise ConfigError(f"unknown prompt {prompt!r}{nearest(prompt, LISTWISE_PROMPTS)}")
    return LISTWISE_PROMPTS[prompt]


def _order(
    window: Window,
    completion: Completion,
    template: ListwisePrompt,
    query: str,
    report: ListwiseReport,
) -> Window:
    """The window's positions as the answer orders them; as they were where it does not."""
    report.prompt_tokens += completion.prompt_tokens or 0
    report.completion_tokens += completion.completion_tokens or 0
    cut = completion.finish == "length"
    try:
        parsed = parse_permutation(completion.text, len(window), template.identifiers)
    except ParseError as error:
        report.parse_errors += 1
        report.mends.update({"cut off": 1} if cut else {})
        logger.info("query %r: a window keeps its order: %s", query, error)
        return window
    kinds: Counter[str] = Counter()
    kinds.update(parsed.mends)
    if cut:
        kinds["cut off"] = 1
    report.count(kinds)
    return tuple(window[i] for i in parsed.order)


def _blended(candidates: Candidates, order: Window, blend: float) -> Window:
    """The positions in `order`, sorted anew by their place in it and the scores they came with."""
    places = [float(-place) for place in range(len(order))]
    fused = fuse(places, [candidates.scores[i] for i in order], blend)
    return tuple(order[i] for i in np.argsort(-fused, kind="stable"))


def _ranking(candidates: Candidates, order: Window) -> Ranking:
    count = len(candidates.passages)
    places = (*order, *range(len(order), count))
    return Ranking(
        query_id=candidates.query.id,
        passage_ids=tuple(candidates.passages[i].id for i in places),
        scores=tuple(float(count - i) for i in range(count)),
    )
