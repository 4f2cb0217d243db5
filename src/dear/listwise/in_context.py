"""Passages ordered by the attention that a query's tokens pay them: no training, no answer.

In-context reranking (Chen, Gutiérrez and Su 2025): the passages are read once, then the query
behind them, then, in the query's place, one that says nothing. A passage's score is the attention
that the first draws to it beyond the second.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from dear.errors import ConfigError
from dear.listwise.decoder import (
    ATTEND,
    Decoder,
    WindowAttention,
    WindowCache,
    attended,
    attention_weights,
    takes_attention,
)
from dear.listwise.loading import HeadWeights, ListModel
from dear.listwise.programs import Found, most_words
from dear.prompts.listwise import WindowPrompt, clean

logger = logging.getLogger(__name__)

OPENING = "Here are some passages:\n\n"
BLANK = "N/A"
"""A query without content."""

DEVIATIONS = 2.0
"""Tokens that stand so many standard deviations below their passage's mean are left out."""


@dataclass(frozen=True, slots=True)
class EncodedContext:
    """ids: the passages; spans: (start, stop) of each in them.  query, blank: what may follow."""

    ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]
    query: tuple[int, ...]
    blank: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """That the model reads."""
        return len(self.ids) + len(self.query) + len(self.blank)


class InContext:
    """Scores the passages of a window, one window at a time.

    The prompt is its own, whatever the model was taught; passages are cut to the contract's words.
    heads: what each head counts; all alike where None.
    ConfigError: a model whose attention does not go through transformers' interface.
    """

    def __init__(
        self, model: ListModel, decoder: Decoder, heads: HeadWeights | None = None
    ) -> None:
        self.model, self.decoder, self.heads = model, decoder, heads
        self._told = False
        if not (decoder.keeps and takes_attention(model.model)):
            kind = type(model.model).__name__
            raise ConfigError(f"{model.name}: the attention of {kind} cannot be read")

    def encode(self, window: WindowPrompt) -> EncodedContext:
        """ConfigError: not even one word of each passage fits."""
        query, blank = self._ask(window.query.text), self._ask(BLANK)
        limit = self.model.max_tokens - max(len(query), len(blank))

        def made(words: int) -> tuple[list[int], tuple[tuple[int, int], ...]]:
            return self._passages([clean(p.full_text, words) for p in window.passages])

        words = self.model.contract.max_words
        ids, spans = made(words)
        if len(ids) > limit:
            found = most_words(lambda n: len(made(n)[0]) <= limit, words)
            if found is None:
                raise ConfigError(
                    f"{self.model.name}: {len(spans)} passages do not fit {limit} tokens with one "
                    "word of each; use fewer"
                )
            if not self._told:
                logger.warning(
                    "%s: %d passages and %d tokens do not fit %d: they are cut to %d words",
                    *(self.model.name, len(spans), len(ids), limit, found),
                )
            self._told = True
            ids, spans = made(found)
        return EncodedContext(tuple(ids), spans, query, blank)

    def read(self, context: EncodedContext) -> Found:
        """Order and scores; equal ones in the window's order."""
        if self.heads is None:
            tokens = self.attention(context).mean((0, 1))
            scores = tuple(_score(tokens[start:stop]) for start, stop in context.spans)
        else:
            paid = self.paid(context)
            if paid.shape[1:] != self.heads.shape:
                raise ConfigError(
                    f"{self.model.name}: weights for {_said(self.heads.shape)}, not for the "
                    f"{_said(paid.shape[1:])} that see all of the window"
                )
            scores = tuple(np.tensordot(paid, np.array(self.heads.weights), 2).tolist())
        order = sorted(range(len(scores)), key=lambda i: -scores[i])
        return Found(order=tuple(order), scores=scores)

    def paid(self, context: EncodedContext) -> NDArray[np.float32]:
        """(N, layers, heads) attention to each passage, the sum over its tokens."""
        found = self.attention(context)
        sums = [found[..., start:stop].sum(-1) for start, stop in context.spans]
        return cast(NDArray[np.float32], torch.stack(sums).cpu().numpy())

    def attention(self, context: EncodedContext) -> torch.Tensor:
        """float32 (layers, heads, tokens of the passages): the mean over the query's tokens, less
        that over the blank one's. Layers whose window is shorter than the prompt are left out."""
        width = len(context.ids)
        cache = WindowCache(self.decoder.layers, 1, width, self.model.device)
        cache.place(slice(0, 1), 0, 0)
        with torch.inference_mode():
            self._forward(context.ids, cache)
            cache.place(slice(0, 1), 0, width)
            longest = max(len(context.query), len(context.blank))
            cache.reserve(longest)
            paid = [
                self._paid(ids, cache, width, width + longest)
                for ids in (context.query, context.blank)
            ]
        return paid[0] - paid[1]

    def _paid(self, ids: Sequence[int], cache: WindowCache, width: int, total: int) -> torch.Tensor:
        seen = Seen(width, total)
        token = _seen.set(seen)
        try:
            self._forward(ids, cache, WATCHED)
        finally:
            _seen.reset(token)
        if seen.layers != self.decoder.layers:
            raise ConfigError(f"{self.model.name}: not every layer attends as transformers' do")
        if not seen.paid:
            raise ConfigError(
                f"{self.model.name}: no layer sees as far as {total} tokens; use a smaller window"
            )
        return torch.stack(seen.paid)

    def _forward(
        self, ids: Sequence[int], cache: WindowCache, attention: WindowAttention = ATTEND
    ) -> None:
        row = torch.tensor([list(ids)], device=self.model.device)
        mask = row.new_ones(1, cache.slots.stop + len(ids))
        self.decoder.hidden(row, mask, cache, attention)

    def _passages(self, texts: Sequence[str]) -> tuple[list[int], tuple[tuple[int, int], ...]]:
        encoder = self.model.encoder
        ids = encoder.opening(OPENING)
        spans = []
        for i, text in enumerate(texts, 1):
            start = len(ids)
            ids += encoder.ids(encoder.plain(f"[{i}] {text}\n\n"))
            spans.append((start, len(ids)))
        return ids, tuple(spans)

    def _ask(self, query: str) -> tuple[int, ...]:
        encoder = self.model.encoder
        return tuple(encoder.ids(encoder.plain(f"Query: {clean(query)}\n")))


class Seen:
    """What the layers paid in one pass.

    width: tokens of the passages.  total: a layer must see so far back.
    """

    def __init__(self, width: int, total: int) -> None:
        self.width, self.total = width, total
        self.layers = 0
        self.paid: list[torch.Tensor] = []

    def add(self, weights: torch.Tensor, sliding: int | None) -> None:
        """weights: (1, G, H / G, S, T)."""
        self.layers += 1
        if sliding is None or sliding >= self.total:
            self.paid.append(weights[0, ..., : self.width].flatten(0, 1).mean(1))


_seen: ContextVar[Seen] = ContextVar("seen")


def watched(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    sliding_window: int | None = None,
    **_other: Any,
) -> tuple[torch.Tensor, None]:
    """As `attend`, and what was paid is noted; it is small, and float32 throughout."""
    weights = attention_weights(query.float(), key.float(), attention_mask, scaling, softcap)
    _seen.get().add(weights, sliding_window)
    return attended(weights, value), None


WATCHED = WindowAttention("dear_in_context", watched)


def _score(paid: torch.Tensor) -> float:
    """The sum over a passage's tokens, without those that are abnormally low."""
    low = paid.mean() - DEVIATIONS * paid.std(correction=0)
    return float(paid[paid >= low].double().sum())


def _said(shape: tuple[int, ...]) -> str:
    return f"{shape[0]} layers of {shape[1]} heads"
