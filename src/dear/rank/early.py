"""Early exit for top-k rankings: calibrated on candidate lists, then used to rank others."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dear.errors import BackendError, ConfigError
from dear.models.batching import (
    ANY_SHAPE,
    in_batches,
    pick_batch_tokens,
    require_finite,
    token_batches,
)
from dear.models.encoding import Encoded, PairEncoder
from dear.models.engines.dropping import full_mask, layers_of, pooled_state, recording
from dear.models.engines.early import Bar, EarlyEngine, EarlyExit
from dear.models.engines.padded import PaddedEngine
from dear.models.loading import ScoringModel
from dear.models.threads import exclusive
from dear.records import Candidates, Ranking

logger = logging.getLogger(__name__)

FOLDS = 5
MOST_LAYERS = 8
RIDGES = np.logspace(-4, 1, 11)
"""Penalties, as a share of the number of training pairs: features have unit variance."""

Progress = Callable[[int, int], None]
Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]


def rank_early(
    model: ScoringModel,
    exit: EarlyExit,
    candidates: Sequence[Candidates],
    *,
    top_k: int | None = None,
    batch_tokens: int | None = None,
    progress: Progress | None = None,
) -> Iterator[Ranking]:
    """A Ranking for each query, in order; batches hold pairs of one query only.

    top_k: passages to keep of each ranking, at most exit.top_k; None gives all, those that were
    dropped at the end. progress: called with (pairs done, pairs in all).
    """
    engine = EarlyEngine(model, exit, pick_batch_tokens(batch_tokens, model.device))
    return rank_with(engine, candidates, top_k, progress)


def rank_with(
    engine: EarlyEngine,
    candidates: Sequence[Candidates],
    top_k: int | None = None,
    progress: Progress | None = None,
) -> Iterator[Ranking]:
    """`rank_early` with an engine that was tried out before."""
    if top_k is not None and not 1 <= top_k <= engine.exit.top_k:
        raise ConfigError(f"top_k must be 1 to {engine.exit.top_k}, as calibrated, not {top_k}")
    return _rankings(engine, candidates, top_k, progress)


def _rankings(
    engine: EarlyEngine,
    candidates: Sequence[Candidates],
    top_k: int | None,
    progress: Progress | None,
) -> Iterator[Ranking]:
    encoder = PairEncoder(engine.model.tokenizer, engine.model.contract)
    total, done = sum(len(c.passages) for c in candidates), 0
    for c in candidates:
        pairs = [(c.query.text, p.full_text) for p in c.passages]
        scores, _ = engine.rank_scores(encoder.encode(pairs))
        require_finite(engine.model.name, scores, pairs)
        order = np.argsort(-scores, kind="stable")[:top_k]
        done += len(pairs)
        if progress is not None:
            progress(done, total)
        yield Ranking(
            query_id=c.query.id,
            passage_ids=tuple(c.passages[i].id for i in order),
            scores=tuple(float(scores[i]) for i in order),
        )


def calibrate(
    model: ScoringModel,
    queries: Sequence[Sequence[Encoded]],
    *,
    top_k: int = 10,
    keep: float = 0.99,
    layers: Sequence[int] | None = None,
    batch_tokens: int | None = None,
    progress: Progress | None = None,
) -> EarlyExit:
    """The layer that saves most while it keeps `keep` of the full model's top_k.

    queries: the candidates of each query; those with top_k or fewer say nothing and are left out.
    layers: layers to try (after how many layers to drop); at most 8, evenly spread, where None.

    For each layer: ridge regression of the logits on the pooled states, both less their query's
    mean, because only differences within a query decide. Every query is predicted by a probe that
    was fitted without it (5 folds), which gives the shortfall of each passage of its full top_k:
    the k-th best prediction less its own. The margin is the ceil((n + 1) keep)-th smallest of
    these n shortfalls, or 0 if that is negative: the quantile of split conformal prediction, which
    would keep `keep` of the top_k of new queries of the same kind if passages were independent.
    Those of one query are not, so it holds on average over queries and calibrations, for no single
    one. The bar is the best possible one here; while ranking it is a running one, which drops
    less. recall and share come from a replay with the batches of `batch_tokens`.

    Queries of another kind than those calibrated on keep less, as the probe is fitted to them.

    Raises ConfigError where there are too few queries for `keep`, BackendError for scores that
    are not finite.
    """
    if top_k < 1 or not 0 < keep < 1:
        raise ConfigError(f"early exit: top_k {top_k} must be 1 or more, keep {keep} in (0, 1)")
    usable = [list(q) for q in queries if len(q) > top_k]
    needed = max(2, math.ceil(round(keep / (1 - keep) / top_k, 9)))
    if len(usable) < needed:
        raise ConfigError(
            f"early exit: to keep {keep} of the top {top_k} takes {needed} calibration queries "
            f"with more than {top_k} candidates, not {len(usable)}"
        )
    budget = pick_batch_tokens(batch_tokens, model.device)
    tried = _layers(model, layers)
    states, logits = _observe(model, [e for q in usable for e in q], tried, budget, progress)
    count = len(layers_of(model))
    owner = np.repeat(np.arange(len(usable)), [len(q) for q in usable])
    found: list[EarlyExit] = []
    for layer in tried:
        raw = states.pop(layer).astype(np.float64)
        x, y = _centred(raw, owner), _centred(logits, owner)
        ridge, held_out = _cross_fit(x, y, owner)
        margin = _margin(held_out, logits, owner, top_k, keep)
        recall, share = _replay(held_out, logits, usable, Bar(top_k, margin), budget, layer / count)
        weights = _ridge(x, y, np.array([ridge]))[0]
        exit = EarlyExit(
            layer=layer,
            layers=count,
            weights=weights.astype(np.float32),
            bias=float(logits.mean() - raw.mean(0) @ weights),
            margin=margin,
            top_k=top_k,
            keep=keep,
            recall=recall,
            share=share,
            queries=len(usable),
            pairs=len(owner),
            batch_tokens=budget,
            revision=model.revision,
            contract=model.contract,
        )
        logger.info(
            "early exit after layer %d: margin %.3f, recall %.4f, share %.3f",
            *(layer, margin, exit.recall, exit.share),
        )
        found.append(exit)
    return min(found, key=lambda e: (e.share, -e.recall))


def _layers(model: ScoringModel, layers: Sequence[int] | None) -> list[int]:
    count = len(layers_of(model))
    if count < 2:
        raise ConfigError(f"{model.name}: early exit does not work here: it has {count} layer")
    if layers is None:
        spread = np.linspace(1, count - 1, min(count - 1, MOST_LAYERS))
        return sorted({round(float(i)) for i in spread})
    if not layers or any(not 1 <= i < count for i in layers):
        raise ConfigError(f"early exit: layers {list(layers)} must be in 1 to {count - 1}")
    return sorted(set(layers))


def _observe(
    model: ScoringModel,
    encoded: Sequence[Encoded],
    layers: Sequence[int],
    budget: int,
    progress: Progress | None,
) -> tuple[dict[int, NDArray[np.float32]], Vector]:
    """({layer: pooled states (n, d)}, logits (n,)) of the full model, in the order given."""
    engine = PaddedEngine(model, budget, ANY_SHAPE)

    def forward(some: Sequence[Encoded]) -> NDArray[np.float32]:
        mask = full_mask(some, model)
        parts: dict[int, NDArray[np.float32]] = {}

        def take(layer: int, hidden: torch.Tensor) -> None:
            parts[layer] = pooled_state(hidden, mask, last=model.is_decoder).cpu().numpy()

        with exclusive(model.model), recording(model, layers, take):
            logits = engine.forward(some)
        return np.concatenate([logits[:, None], *(parts[layer] for layer in layers)], axis=1)

    rows = in_batches(encoded, budget, forward, progress)
    if not np.isfinite(rows).all():
        raise BackendError(f"{model.name}: scores or states are not finite; try dtype float32")
    states = np.split(rows[:, 1:], len(layers), axis=1)
    return dict(zip(layers, states, strict=True)), rows[:, 0].astype(np.float64)


def _centred(values: NDArray[Any], owner: NDArray[np.int64]) -> NDArray[Any]:
    """Each row less the mean of its query's rows."""
    sums = np.zeros((owner.max() + 1, *values.shape[1:]))
    np.add.at(sums, owner, values)
    counts = np.bincount(owner).reshape(-1, *[1] * (values.ndim - 1))
    return values - (sums / counts)[owner]


def _ridge(x: Matrix, y: Vector, ridges: Vector) -> Matrix:
    """(len(ridges), d) weights of least squares + ridge n |weights of the scaled features|²."""
    scale = x.std(0)
    # a feature that never changes predicts nothing
    scale[scale < 1e-8] = np.inf
    x = x / scale
    penalties = ridges[:, None] * len(x)
    if x.shape[1] <= len(x):
        values, vectors = np.linalg.eigh(x.T @ x)
        weights = (vectors.T @ (x.T @ y) / (values + penalties)) @ vectors.T
    else:
        values, vectors = np.linalg.eigh(x @ x.T)
        weights = ((vectors.T @ y / (values + penalties)) @ vectors.T) @ x
    return np.asarray(weights / scale)


def _cross_fit(x: Matrix, y: Vector, owner: NDArray[np.int64]) -> tuple[float, Vector]:
    """(the ridge with the least error on queries left out, predictions for them (n,))."""
    predicted = np.empty((len(RIDGES), len(y)))
    folds = min(FOLDS, int(owner.max()) + 1)
    for fold in range(folds):
        out = owner % folds == fold
        predicted[:, out] = _ridge(x[~out], y[~out], RIDGES) @ x[out].T
    best = int(np.square(predicted - y).mean(1).argmin())
    return float(RIDGES[best]), predicted[best]


def _top(scores: Vector, top_k: int) -> NDArray[np.int64]:
    return np.argsort(-scores, kind="stable")[:top_k]


def _margin(
    predicted: Vector, logits: Vector, owner: NDArray[np.int64], top_k: int, keep: float
) -> float:
    shortfalls = []
    for query in range(owner.max() + 1):
        mine = predicted[owner == query]
        bar = np.sort(mine)[-top_k]
        shortfalls.append(bar - mine[_top(logits[owner == query], top_k)])
    ordered = np.sort(np.concatenate(shortfalls))
    rank = math.ceil(round((len(ordered) + 1) * keep, 9))
    return max(0.0, float(ordered[min(rank, len(ordered)) - 1]))


def _replay(
    predicted: Vector,
    logits: Vector,
    queries: Sequence[Sequence[Encoded]],
    rule: Bar,
    budget: int,
    before: float,
) -> tuple[float, float]:
    """(recall of the top_k, share computed) if EarlyEngine ranked these queries; `before` is the
    share of a pass that is done when a row is dropped."""
    first, found = 0, 0
    done = total = 0.0
    for query in queries:
        here = slice(first, first + len(query))
        first = here.stop
        guess = predicted[here].astype(np.float32)
        kept = np.ones(len(query), dtype=np.bool_)
        bar = Bar(rule.top_k, rule.margin)
        for batch in token_batches([len(e) for e in query], budget):
            kept[batch] = bar.keep(guess[batch])
            width = len(query[batch[0]])
            total += width * len(batch)
            done += width * (before * len(batch) + (1 - before) * int(kept[batch].sum()))
        found += int(kept[_top(logits[here], rule.top_k)].sum())
    return found / (rule.top_k * len(queries)), done / total
