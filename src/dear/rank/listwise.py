"""Listwise ranking: windows of candidates are shown to a model that orders them."""

from __future__ import annotations

import itertools
import logging
import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from dear.backends import Backend, Batched, Completion, OnAnswer
from dear.backends.batch import MOST_REQUESTS
from dear.errors import BackendError, ConfigError, ParseError, nearest
from dear.listwise.strategies import Sliding, Strategy, Window, drive
from dear.prompts.listwise import LISTWISE_PROMPTS, ListwisePrompt
from dear.prompts.listwise import guard as guarded
from dear.prompts.permutations import Mend, parse_permutation
from dear.rank.fusion import check_weight, fuse
from dear.rank.ranker import (
    UNREADABLE,
    Cancel,
    Limits,
    Progress,
    check_top_k,
    reordered,
)
from dear.records import Candidates, Ranking, RankingCost, Reasoning

logger = logging.getLogger(__name__)

BATCH_WINDOWS = 256
"""Windows that a backend is handed at once."""
LIMITED_WINDOWS = 8
"""The same between two looks at a deadline."""


class ListwiseRanker:
    """Orders candidates by a model that reads several at once.

    backend: what answers (dear.backends), opened.
    strategy: which windows are asked; sliding windows of 20, step 10, where None.
    prompt: one of LISTWISE_PROMPTS by name, or one of your own; the backend's own where None, else
        "rankvicuna".
    depth: candidates that are ranked, the best of the stage before; the others follow in their
        order. All where None.
    fuse_weight: of the candidates' own scores, beside the places that the lists give: both are
        brought to mean 0 and deviation 1 over those that were ranked (`dear.rank.fusion.fuse`).
        0 takes the lists' word alone.
    guard: passages are quoted in the prompt, so that they cannot write its control tokens.
    batch_windows: at most so many are handed to the backend at once.

    Where one window held all that was ranked, its backend gave scores (`Completion.scores`: a
    local model's `first` or `attention` reading) and fuse_weight is 0, the scores are the
    backend's: they are comparable within the ranking, and candidates below `depth` follow, each
    1 below the one before. Else they say no more than the order: n for the best of n candidates,
    1 for the last, as scores of windows that overlap do not compare. The same answers give the
    same rankings. With a deadline, windows that were not asked by then keep their
    order. ConfigError: an unknown prompt, a depth or a batch below 1, a weight below 0.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        strategy: Strategy | None = None,
        prompt: str | ListwisePrompt | None = None,
        depth: int | None = None,
        fuse_weight: float = 0.0,
        guard: bool = False,
        batch_windows: int | None = None,
    ) -> None:
        if depth is not None and depth < 1:
            raise ConfigError(f"depth must be 1 or more, not {depth}")
        if batch_windows is None:
            batch_windows = MOST_REQUESTS if isinstance(backend, Batched) else BATCH_WINDOWS
        if batch_windows < 1:
            raise ConfigError(f"batch_windows must be 1 or more, not {batch_windows}")
        check_weight(fuse_weight)
        self.backend = backend
        self.strategy = Sliding() if strategy is None else strategy
        self.prompt = _template(prompt or getattr(backend, "template", None) or "rankvicuna")
        if guard:
            self.prompt = guarded(self.prompt)
        self.depth, self.fuse_weight, self.batch_windows = depth, fuse_weight, batch_windows

    @property
    def name(self) -> str:
        return self.backend.name

    def windows(self, candidates: Iterable[Candidates]) -> int:
        """How many windows ranking these takes, at most."""
        return sum(self.strategy.calls(len(c.passages[: self.depth])) for c in candidates)

    def rank_candidates(
        self,
        candidates: Iterable[Candidates],
        *,
        top_k: int | None = None,
        progress: Progress | None = None,
        deadline: float | None = None,
        cancel: Cancel | None = None,
    ) -> Iterator[Ranking]:
        """See `Ranker`. Windows of several queries share batches, so that all rankings come at
        the end; candidates come best first, as the stage before left them."""
        check_top_k(top_k)
        many = list(candidates)
        call = _Call(self, many, Limits(deadline, cancel), progress)
        ranked = call.run() if many else []
        return (ranking if top_k is None else ranking.top(top_k) for ranking in ranked)


class _Call:
    """One call of a ListwiseRanker: what its windows came to, query by query."""

    def __init__(
        self,
        ranker: ListwiseRanker,
        candidates: Sequence[Candidates],
        limits: Limits,
        progress: Progress | None,
    ) -> None:
        self.ranker, self.candidates, self.limits = ranker, candidates, limits
        self.progress = progress
        self.most = ranker.windows(candidates)
        self.asked = 0
        self.of = [_OfQuery() for _ in candidates]

    def run(self) -> list[Ranking]:
        ranker = self.ranker
        started = time.perf_counter()
        sizes = [len(c.passages[: ranker.depth]) for c in self.candidates]
        orders = drive([ranker.strategy.plan(size) for size in sizes], self._ask)
        scores = [found.window_scores(order) for order, found in zip(orders, self.of, strict=True)]
        if ranker.fuse_weight:
            orders = [
                _fused(c, order, ranker.fuse_weight)
                for c, order in zip(self.candidates, orders, strict=True)
            ]
            scores = [None] * len(orders)  # the order is no longer the backend's alone
        seconds = (time.perf_counter() - started) / len(self.candidates)
        if self.progress is not None and self.asked:
            self.progress(self.asked, self.asked)
        return [
            found.ranking(c, order, ordered_scores, seconds)
            for c, order, ordered_scores, found in zip(
                self.candidates, orders, scores, self.of, strict=True
            )
        ]

    def _ask(self, asked: Sequence[tuple[int, Window]]) -> list[Window]:
        size = self.ranker.batch_windows
        size = min(size, LIMITED_WINDOWS) if self.limits else size
        orders: list[Window] = []
        for i in range(0, len(asked), size):
            batch = asked[i : i + size]
            if self.limits and self.limits.reached():
                for q, window in asked[i:]:
                    self.of[q].complete = False
                    orders.append(window)
                break
            orders += self._answers(batch)
        return orders

    def _answers(self, batch: Sequence[tuple[int, Window]]) -> list[Window]:
        backend = self.ranker.backend
        prompts = [
            self.ranker.prompt.render(
                self.candidates[q].query, [self.candidates[q].passages[p] for p in window]
            )
            for q, window in batch
        ]
        answered = _counter(self.progress, self.asked, self.most)
        completions = backend.generate(prompts, answered)
        if len(completions) != len(prompts):
            raise BackendError(
                f"{backend.name}: {len(completions)} answers to {len(prompts)} prompts"
            )
        self.asked += len(batch)
        if self.progress is not None:
            self.progress(self.asked, self.most)
        return [
            self.of[q].order(window, completion, self.ranker.prompt, self.candidates[q])
            for (q, window), completion in zip(batch, completions, strict=True)
        ]


@dataclass(slots=True)
class _OfQuery:
    """What the windows of one query came to."""

    complete: bool = True
    windows: int = 0
    mended: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    mends: Counter[str] = field(default_factory=Counter)
    reasoning: list[Reasoning] = field(default_factory=list)
    scored: dict[int, float] = field(default_factory=dict)
    """Position → score of the last window, where its backend gave scores."""

    def order(
        self,
        window: Window,
        completion: Completion,
        template: ListwisePrompt,
        candidates: Candidates,
    ) -> Window:
        """The window's positions as the answer orders them; as they were where it does not."""
        self.windows += 1
        self.prompt_tokens += completion.prompt_tokens or 0
        self.completion_tokens += completion.completion_tokens or 0
        text = completion.reasoning or _reasoning_of(completion.text)
        if text:
            shown = tuple(candidates.passages[i].id for i in window)
            self.reasoning.append(Reasoning(shown, text))
        kinds: Counter[str] = Counter()
        if completion.finish == "length":
            kinds["cut off"] = 1
        try:
            order, mends = _read_order(completion, len(window), template)
        except ParseError as error:
            self.mends.update(kinds)
            self.mends[UNREADABLE] += 1
            query = candidates.query.id
            logger.info("query %r: a window keeps its order: %s", query, error)
            return window
        kinds.update(mends)
        self.mends.update(kinds)
        self.scored = dict(zip(window, completion.scores or (), strict=False))
        self.mended += any(kind != "thought stripped" for kind in kinds)
        return tuple(window[i] for i in order)

    def window_scores(self, order: Window) -> list[float] | None:
        """The backend's scores in `order`, where one window held all of it; None where they do
        not say its order."""
        if self.windows != 1 or len(self.scored) != len(order):
            return None
        scores = [self.scored[i] for i in order]
        falling = all(a >= b for a, b in itertools.pairwise(scores))
        return scores if falling and all(map(math.isfinite, scores)) else None

    def ranking(
        self, candidates: Candidates, order: Window, scores: list[float] | None, seconds: float
    ) -> Ranking:
        """scores: of the positions in `order`; those that say no more than it where None."""
        count = len(candidates.passages)
        if scores is None:
            order = (*order, *range(len(order), count))
            scores = [float(count - i) for i in range(count)]
        return reordered(
            candidates,
            order,
            scores,
            complete=self.complete,
            reasoning=self.reasoning,
            cost=RankingCost(
                windows=self.windows,
                mended_windows=self.mended,
                prompt_tokens=self.prompt_tokens,
                completion_tokens=self.completion_tokens,
                listwise_s=seconds,
            ),
            mended=dict(self.mends),
        )


def _read_order(
    completion: Completion, count: int, template: ListwisePrompt
) -> tuple[Window, Mapping[Mend, int]]:
    """The order of a window of `count` passages, and the mends that it took; parsed from the text
    only where the backend does not give it.

    ParseError: there is none. BackendError: an order or scores of other passages.
    """
    order, scores = completion.order, completion.scores
    if scores is not None and len(scores) != count:
        raise BackendError(f"{len(scores)} scores for {count} passages")
    if order is None:
        parsed = parse_permutation(completion.text, count, template.identifiers)
        return parsed.order, parsed.mends
    if sorted(order) != list(range(count)):
        raise BackendError(f"the order {order} is none of {count} passages")
    return order, {"thought stripped": 1} if _reasoning_of(completion.text) else {}


def _reasoning_of(text: str) -> str:
    """What stands before the last `</think>`; "" where nothing does."""
    before, ended, _ = text.rpartition("</think>")
    return before.replace("<think>", "").strip() if ended else ""


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


def _fused(candidates: Candidates, order: Window, weight: float) -> Window:
    """The positions in `order`, sorted anew by their place in it and the scores they came with."""
    places = [float(-place) for place in range(len(order))]
    fused = fuse(places, [candidates.scores[i] for i in order], weight)
    return tuple(order[i] for i in np.argsort(-fused, kind="stable"))
