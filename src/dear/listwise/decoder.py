"""Many windows through one causal model at once, each with a program that says what to feed."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar, cast

import torch

from dear.checkpoints.heads import takes
from dear.checkpoints.threads import exclusive
from dear.errors import ConfigError
from dear.listwise.attention import ATTEND, WindowAttention, window_attention
from dear.listwise.cache import WindowCache
from dear.scoring.batching import collate, token_batches
from dear.scoring.encoding import Encoded

CACHE_BATCHES = 8
"""Windows that are decoded together have this many times the tokens of a batch: a step reads all
weights for a few tokens a window."""

LAYER_TYPES = {"full_attention", "sliding_attention"}


@dataclass(frozen=True, slots=True)
class Ask:
    """Feed these tokens, then give the logits of `among` (of the whole vocabulary where None).

    forget: tokens fed last that are taken back first.
    """

    feed: tuple[int, ...]
    among: tuple[int, ...] | None
    forget: int = 0


T = TypeVar("T")
Program: TypeAlias = Generator[Ask, torch.Tensor, T]
"""Sent float32 logits on the CPU, (among,) or (vocabulary,); returns what it found."""


class Decoder:
    """Runs programs in batches; a program's result does not depend on the others, to rounding.

    batch_tokens: padded tokens of a prefill.
    """

    def __init__(self, model: Any, pad_id: int, device: torch.device, batch_tokens: int) -> None:
        self.model, self.pad_id, self.device = model, pad_id, device
        self.batch_tokens = batch_tokens
        self.body = getattr(model, model.base_model_prefix)
        self.takes_positions = takes(self.body, "position_ids")
        config = model.config.get_text_config(decoder=True)
        self.layers = int(config.num_hidden_layers)
        kinds = set(getattr(config, "layer_types", None) or ())
        self.keeps = kinds <= LAYER_TYPES and takes(self.body, "past_key_values")
        self.slides = (
            "sliding_attention" in kinds or getattr(config, "sliding_window", None) is not None
        )
        if hasattr(model.get_output_embeddings(), "base_layer"):
            raise ConfigError("an adapter of the vocabulary's head must be merged")

    def run(
        self,
        items: Sequence[tuple[Sequence[int], Program[T]]],
        *,
        steps: bool = True,
        even: bool = False,
        done: Callable[[int, T], None] | None = None,
    ) -> list[T]:
        """What the program of each (prompt, program) returns, in order.

        steps: whether programs ask more than once.  even: whether all that still go feed alike
        many tokens, and none forgets; otherwise windows of a model with sliding attention go one
        by one, as its windows would count the gaps.  done: called as soon as a result is there.
        """
        if steps and not self.keeps:
            raise ConfigError("this model keeps other states than keys and values: read it `first`")
        rows = [_Row(i, program) for i, (_, program) in enumerate(items)]
        results: dict[int, T] = {}

        def finish(row: _Row[T], value: T) -> None:
            results[row.index] = value
            if done is not None:
                done(row.index, value)

        going: list[_Row[T]] = []
        for row, (prompt, _) in zip(rows, items, strict=True):
            if row.start(finish):
                row.ids = [*prompt, *row.ask.feed]
                going.append(row)
        budget = self.batch_tokens * (CACHE_BATCHES if steps else 1)
        lengths = [len(row.ids) for row in going]
        alone = steps and self.slides and not even
        batches = [[i] for i in range(len(going))] if alone else token_batches(lengths, budget)
        with torch.inference_mode():
            for batch in batches:
                self._run_batch([going[i] for i in batch], steps, finish)
        return [results[i] for i in range(len(items))]

    def _run_batch(
        self, rows: list[_Row[T]], steps: bool, finish: Callable[[_Row[T], T], None]
    ) -> None:
        """rows: the longest first."""
        cache = None
        width = len(rows[0].ids)
        if steps:
            cache = WindowCache(self.layers, len(rows), width, self.device)
        going: list[bool] = []
        for part in token_batches([len(row.ids) for row in rows], self.batch_tokens):
            some = [rows[i] for i in part]
            with exclusive(self.model):
                hidden = self._prefill(some, slice(part[0], part[-1] + 1), width, cache)
                logits = self._logits(some, hidden)
            going += _send(some, logits, finish)
        if cache is None:
            return
        cache.place(slice(0, len(rows)), 0, width)
        while any(going):
            rows, going = _drop(rows, going, cache)
            live = [i for i, goes in enumerate(going) if goes]
            some = [rows[i] for i in live]
            with exclusive(self.model):
                logits = self._logits(some, self._step(rows, going, cache)[live])
            for i, goes in zip(live, _send(some, logits, finish), strict=True):
                going[i] = goes

    def _prefill(
        self, rows: Sequence[_Row[T]], place: slice, width: int, cache: WindowCache | None
    ) -> torch.Tensor:
        """(B, H) hidden states of the last tokens of `rows`, which stand in `place`."""
        items = [Encoded(row.ids, [0] * len(row.ids)) for row in rows]
        ids, mask, _ = collate(items, pad_id=self.pad_id, side="left")
        ids, mask = ids.to(self.device), mask.to(self.device)
        if cache is not None:
            start = width - ids.shape[1]
            cache.place(place, start, start)
            cache.mask[place, start:width] = mask
        return self.hidden(ids, mask, cache)

    def _step(
        self, rows: Sequence[_Row[T]], going: Sequence[bool], cache: WindowCache
    ) -> torch.Tensor:
        """(B, H) hidden states behind what each row feeds; those of finished rows mean nothing."""
        cache.forget([row.ask.forget if goes else 0 for row, goes in zip(rows, going, strict=True)])
        feeds = [row.ask.feed if goes else () for row, goes in zip(rows, going, strict=True)]
        items = [Encoded(list(feed), [0] * len(feed)) for feed in feeds]
        ids, mask, _ = collate(items, pad_id=self.pad_id, side="left")
        ids, mask = ids.to(self.device), mask.to(self.device)
        cache.reserve(ids.shape[1])
        stop = cache.room.stop
        cache.mask[:, stop : stop + ids.shape[1]] = mask
        hidden = self.hidden(ids, cache.mask[:, : stop + ids.shape[1]], cache)
        cache.room.stop = stop + ids.shape[1]
        return hidden

    def hidden(
        self,
        ids: torch.Tensor,
        mask: torch.Tensor,
        cache: WindowCache | None,
        attention: WindowAttention = ATTEND,
    ) -> torch.Tensor:
        """(B, H) hidden states of the last tokens of ids (B, S), behind what the cache holds.

        mask: (B, T) 1 where there is a token, T >= S.
        """
        extra: dict[str, Any] = {}
        if self.takes_positions:
            extra["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        if cache is not None:
            extra["past_key_values"] = cache.cache
        with exclusive(self.model), window_attention(self.model, attention):
            output = self.body(
                input_ids=ids, attention_mask=mask, use_cache=cache is not None, **extra
            )
        return cast(torch.Tensor, output.last_hidden_state[:, -1])

    def _logits(self, rows: Sequence[_Row[T]], hidden: torch.Tensor) -> list[torch.Tensor]:
        """What each row asks for, of hidden (rows, H)."""
        narrow = [i for i, row in enumerate(rows) if row.ask.among is not None]
        tokens = list(dict.fromkeys(t for i in narrow for t in rows[i].ask.among or ()))
        places = {token: place for place, token in enumerate(tokens)}
        wide = [i for i, row in enumerate(rows) if row.ask.among is None]
        logits = _vocabulary_logits(self.model, hidden[narrow], tokens)
        found = dict(zip(narrow, logits, strict=True))
        if wide:
            found |= zip(wide, _vocabulary_logits(self.model, hidden[wide]), strict=True)
        asked = (row.ask.among for row in rows)
        return [
            found[i] if among is None else found[i][[places[t] for t in among]]
            for i, among in enumerate(asked)
        ]


class _Row(Generic[T]):
    """A program that goes."""

    def __init__(self, index: int, program: Program[T]) -> None:
        self.index, self.program = index, program
        self.ids: list[int] = []
        self.ask = Ask((), ())

    def start(self, finish: Callable[[_Row[T], T], None]) -> bool:
        """Whether it asks for anything."""
        return self._advance(lambda: next(self.program), finish)

    def send(self, logits: torch.Tensor, finish: Callable[[_Row[T], T], None]) -> bool:
        """Whether it goes on."""
        return self._advance(lambda: self.program.send(logits), finish)

    def _advance(self, go: Callable[[], Ask], finish: Callable[[_Row[T], T], None]) -> bool:
        try:
            self.ask = go()
        except StopIteration as end:
            finish(self, end.value)
            return False
        return True


def _send(
    rows: Sequence[_Row[T]], logits: Sequence[torch.Tensor], finish: Callable[[_Row[T], T], None]
) -> list[bool]:
    """Each row its logits; whether it goes on."""
    return [row.send(mine, finish) for row, mine in zip(rows, logits, strict=True)]


def _vocabulary_logits(
    model: Any, hidden: torch.Tensor, tokens: Sequence[int] | None = None
) -> torch.Tensor:
    """float32 (n, tokens) logits on the CPU of hidden states (n, H).

    Chosen tokens are computed in float32, in which close ones do not become ties; the whole
    vocabulary in the dtype of the head, as transformers does.
    """
    head = model.get_output_embeddings()
    if tokens is None:
        logits = head(hidden.to(head.weight.dtype)).float()
    else:
        rows = torch.as_tensor(list(tokens), dtype=torch.int64, device=hidden.device)
        bias = None if getattr(head, "bias", None) is None else head.bias[rows].float()
        logits = torch.nn.functional.linear(hidden.float(), head.weight[rows].float(), bias)
    config = model.config.get_text_config()
    logits = logits * getattr(config, "logit_scale", 1.0)  # Cohere
    logits = logits / getattr(config, "logits_scaling", 1.0)  # Granite
    cap = getattr(config, "final_logit_softcapping", None)  # Gemma
    return cast(torch.Tensor, logits if cap is None else cap * torch.tanh(logits / cap)).cpu()


def _drop(
    rows: list[_Row[T]], going: list[bool], cache: WindowCache
) -> tuple[list[_Row[T]], list[bool]]:
    """Without the finished rows, where half of them or more are finished."""
    live = [i for i, goes in enumerate(going) if goes]
    if 2 * len(live) > len(rows):
        return rows, going
    cache.keep(torch.tensor(live, dtype=torch.int64, device=cache.mask.device))
    return [rows[i] for i in live], [True] * len(live)
