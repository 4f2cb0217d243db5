"""Pairs first, lists behind: every candidate is scored, the best are ranked as lists."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dear.backends import BACKENDS, Backend, open_backend
from dear.errors import ConfigError
from dear.prompts.listwise import ListwisePrompt
from dear.rank.fusion import check_weight
from dear.rank.listwise import ListwiseReport, Progress, rank_listwise
from dear.rank.reranker import Reranker
from dear.rank.strategies import Full, Sliding, Strategy
from dear.rank.thoughts import Listening, Thought
from dear.records import Candidates, Passage, Query, Ranking

if TYPE_CHECKING:
    from dear.models.contract import DType
    from dear.models.opening import PairModel

PROBES = 4
"""Queries whose first window is timed where a time is given and nothing was ranked yet."""


@dataclass(kw_only=True, slots=True)
class CascadeReport:
    """What a ranking took.

    depth:     candidates that were ranked as lists, at most; 0 where the budget held no window.
    pointwise_s, lists_s, probe_s: seconds of both stages, and of windows that were only timed.
    window_s:  seconds a window by which the depth was picked; None without a time budget.
    over:      seconds a query beyond the time budget; 0 where it was kept.
    """

    queries: int
    depth: int = 0
    pointwise_s: float = 0.0
    lists_s: float = 0.0
    probe_s: float = 0.0
    window_s: float | None = None
    over: float = 0.0
    lists: ListwiseReport = field(default_factory=lambda: ListwiseReport(queries=0))

    def to_dict(self) -> dict[str, Any]:
        """For a run's note."""
        return asdict(self) | {"lists": self.lists.to_dict()}


@dataclass(frozen=True, kw_only=True, slots=True)
class Cascaded:
    """What one call came to.

    rankings: by query, in order.  thoughts: by query id, what the listwise model wrote before its
    orders.
    """

    rankings: tuple[Ranking, ...]
    report: CascadeReport
    thoughts: Mapping[str, Sequence[Thought]]


class Cascade:
    """A pointwise model over all candidates, a listwise one over the best of them.

        cascade = Cascade("runs/points", "runs/lists")
        cascade.rank("open a file", ["def open(...)", "def close(...)"], top_k=1)

    pointwise: what `Reranker` takes, a Reranker, or anything that scores pairs.
    lists:     a folder or name of a causal model, an adapter, `KIND:WHERE` as in dear.backends, or
               a Backend. Where both are checkpoints on one base, the base is in memory once.
    depth:     candidates that are ranked as lists.
    strategy:  one window where it holds all, else sliding windows of 20, step 10.
    blend:     so many times the pointwise score is added to the places that the lists give; for a
               listwise model that is no better than the pointwise one.
    prompt:    by name or of your own; the listwise model's own where None.
    calls:     windows a query at most: the largest depth that takes no more is used.
    seconds:   a query at most, on average over a call, both stages: the depth follows from the
               seconds a window took before; at first from a few windows that are timed and not
               used. What was spent is in `report`.
    report, thoughts: of the call that ended last; thoughts by query id: what the listwise model
               wrote before its orders. Where threads share the cascade, `run` gives each its own.
    """

    def __init__(
        self,
        pointwise: str | Path | Reranker | PairModel,
        lists: str | Path | Backend,
        *,
        depth: int = 20,
        strategy: Strategy | None = None,
        blend: float = 0.0,
        prompt: str | ListwisePrompt | None = None,
        seconds: float | None = None,
        calls: int | None = None,
        dtype: DType = "auto",
        device: str = "auto",
        batch_tokens: int | None = None,
    ) -> None:
        if depth < 1:
            raise ConfigError(f"depth must be 1 or more, not {depth}")
        if calls is not None and calls < 0:
            raise ConfigError(f"calls must be 0 or more, not {calls}")
        if seconds is not None and not seconds > 0:
            raise ConfigError(f"seconds must be more than 0, not {seconds}")
        check_weight(blend)
        self.depth, self.seconds, self.calls = depth, seconds, calls
        self.blend = blend
        self.strategy = strategy or (Full() if depth <= 20 else Sliding())
        stages = open_stages(
            pointwise, lists, dtype=dtype, device=device, batch_tokens=batch_tokens
        )
        self.reranker, self.backend, self.one_backbone = stages
        self.prompt = prompt or getattr(self.backend, "template", None) or "rankvicuna"
        self.window_s: float | None = None
        self._last = Cascaded(rankings=(), report=CascadeReport(queries=0), thoughts={})

    @property
    def report(self) -> CascadeReport:
        return self._last.report

    @property
    def thoughts(self) -> Mapping[str, Sequence[Thought]]:
        return self._last.thoughts

    def rank(
        self, query: str, passages: Sequence[str | Passage], *, top_k: int | None = None
    ) -> Ranking:
        """The passages, best first, as `Reranker.rank` gives them; scores say the order only.

        The thoughts are in `thoughts[""]`.
        """
        given = [
            p if isinstance(p, Passage) else Passage(id=str(i), text=p)
            for i, p in enumerate(passages)
        ]
        if not given:
            self._last = Cascaded(rankings=(), report=CascadeReport(queries=0), thoughts={})
            return Ranking(query_id="", passage_ids=(), scores=())
        only = Candidates(
            query=Query(id="query", text=query),
            passages=tuple(given),
            scores=tuple(float(-i) for i in range(len(given))),
        )
        found = self.run([only], top_k=top_k)
        self._last = replace(found, thoughts={"": found.thoughts.get("query", [])})
        return replace(found.rankings[0], query_id="")

    def rank_candidates(
        self,
        candidates: Sequence[Candidates],
        *,
        top_k: int | None = None,
        progress: Progress | None = None,
    ) -> Iterator[Ranking]:
        """A Ranking for each query, in order; windows of several queries share batches.

        top_k: passages to keep of each ranking. progress: called with (pairs and windows done,
        pairs and windows at most).
        """
        found = self._last = self.run(candidates, top_k=top_k, progress=progress)
        return iter(found.rankings)

    def run(
        self,
        candidates: Sequence[Candidates],
        *,
        top_k: int | None = None,
        progress: Progress | None = None,
    ) -> Cascaded:
        """As `rank_candidates`, with the report and the thoughts of this call."""
        if top_k is not None and top_k < 1:
            raise ConfigError(f"top_k must be 1 or more, not {top_k}")
        report = CascadeReport(queries=len(candidates))
        backend = Listening(self.backend)
        pairs = sum(len(c.passages) for c in candidates)
        most = sum(self.strategy.calls(min(self.depth, len(c.passages))) for c in candidates)
        started = time.perf_counter()
        first = [
            _reordered(c, ranking)
            for c, ranking in zip(
                candidates,
                self.reranker.rank_candidates(
                    candidates, progress=progress and _shifted(progress, 0, pairs + most)
                ),
                strict=True,
            )
        ]
        report.pointwise_s = time.perf_counter() - started
        report.depth = self._pick_depth(first, report)
        if not report.depth:
            rankings = [_ranking(c) for c in first]
        else:
            rankings, report.lists = rank_listwise(
                first,
                backend,
                strategy=self.strategy,
                prompt=self.prompt,
                depth=report.depth,
                blend=self.blend,
                progress=progress and _shifted(progress, pairs, pairs + most),
            )
            report.lists_s = report.lists.seconds
            if report.lists.windows:
                self.window_s = report.lists_s / report.lists.windows
        if progress is not None and pairs + most:
            progress(pairs + most, pairs + most)
        if self.seconds is not None and candidates:
            spent = (report.pointwise_s + report.lists_s + report.probe_s) / len(candidates)
            report.over = max(0.0, spent - self.seconds)
        return Cascaded(
            rankings=tuple(_cut(ranking, top_k) for ranking in rankings),
            report=report,
            thoughts=backend.thoughts,
        )

    def _pick_depth(self, first: Sequence[Candidates], report: CascadeReport) -> int:
        depth = min(self.depth, max((len(c.passages) for c in first), default=0))
        calls = self.calls
        if self.seconds is not None and depth > 1:
            if self.window_s is None:
                self._probe(first, depth, report)
            report.window_s = self.window_s
            left = self.seconds - (report.pointwise_s + report.probe_s) / len(first)
            affordable = int(left / max(self.window_s or 0.0, 1e-9)) if left > 0 else 0
            calls = affordable if calls is None else min(calls, affordable)
        return deepest(self.strategy, depth, calls)

    def _probe(self, first: Sequence[Candidates], depth: int, report: CascadeReport) -> None:
        """Time the first window that the strategy asks of a few queries."""
        some = [c for c in first if len(c.passages) > 1][:PROBES]
        size = len(next(self.strategy.plan(depth))[0])
        started = time.perf_counter()
        _, timed = rank_listwise(
            some, self.backend, strategy=Full(), prompt=self.prompt, depth=size
        )
        report.probe_s = time.perf_counter() - started
        self.window_s = report.probe_s / timed.windows


def open_stages(
    pointwise: str | Path | Reranker | PairModel,
    lists: str | Path | Backend,
    *,
    dtype: DType = "auto",
    device: str = "auto",
    batch_tokens: int | None = None,
) -> tuple[Reranker, Backend, bool]:
    """(the pointwise stage, the listwise one, whether they share their base).

    What is open already is passed through.
    """
    options: dict[str, Any] = {"dtype": dtype, "device": device, "batch_tokens": batch_tokens}
    if isinstance(pointwise, str | Path) and isinstance(lists, str | Path):
        shared = open_on_one_backbone(pointwise, lists, options)
        if shared is not None:
            return *shared, True
    if not isinstance(pointwise, Reranker):
        pointwise = Reranker(pointwise, **options)
    if isinstance(lists, str | Path):
        where = _local(lists)
        if where is None:
            lists = open_backend(str(lists))
        else:
            from dear.backends.local import open_local

            lists = open_local(where, **options)
    return pointwise, lists, False


def open_on_one_backbone(
    pointwise: str | Path, lists: str | Path, options: dict[str, Any]
) -> tuple[Reranker, Backend] | None:
    """Both stages on one base; None where theirs differ, or where lists is no local model."""
    from dear.backends.local import Local, split_reading
    from dear.models.backbone import Backbone, share_base

    where = _local(lists)
    if where is None or (":" in str(pointwise) and not Path(pointwise).exists()):
        return None
    name, reading = split_reading(where)
    if not share_base(pointwise, name):
        return None
    backbone = Backbone(pointwise, name, reading=reading, **options)
    return Reranker(backbone.pairs), Local(backbone.lists)


def deepest(strategy: Strategy, depth: int, calls: int | None) -> int:
    """The largest depth, `depth` at most, that takes no more than `calls` windows; 0 if none."""
    if calls is None:
        return depth
    fits = (d for d in range(depth, 1, -1) if strategy.calls(d) <= calls)
    return next(fits, 0)


def _local(lists: str | Path) -> str | None:
    """MODEL[#READING] of a local model; None where another backend is named."""
    text = str(lists)
    kind, colon, where = text.partition(":")
    if not colon or Path(text).exists() or kind not in BACKENDS:
        return text
    return where if kind == "local" else None


def _reordered(candidates: Candidates, ranking: Ranking) -> Candidates:
    by_id = {p.id: p for p in candidates.passages}
    return Candidates(
        query=candidates.query,
        passages=tuple(by_id[i] for i in ranking.passage_ids),
        scores=ranking.scores,
    )


def _ranking(candidates: Candidates) -> Ranking:
    count = len(candidates.passages)
    return Ranking(
        query_id=candidates.query.id,
        passage_ids=tuple(p.id for p in candidates.passages),
        scores=tuple(float(count - i) for i in range(count)),
    )


def _cut(ranking: Ranking, top_k: int | None) -> Ranking:
    return replace(ranking, passage_ids=ranking.passage_ids[:top_k], scores=ranking.scores[:top_k])


def _shifted(progress: Progress, before: int, total: int) -> Callable[[int, int], None]:
    return lambda done, _all: progress(before + done, total)
