"""Many windows through one causal model at once: attention over shared prefixes, the cache, and the
decoder that steps through them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar, cast

import torch
from transformers.cache_utils import Cache, DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from dear.checkpoints.heads import takes
from dear.checkpoints.threads import exclusive
from dear.errors import ConfigError
from dear.scoring.attention import attending
from dear.scoring.batching import token_batches
from dear.scoring.encoding import Encoded
from dear.scoring.tensors import collate

SHORT = 16
"""Queries of a step. Up to so many, the grouped heads are multiplied as they are."""


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    **other: Any,
) -> tuple[torch.Tensor, None]:
    """(B, S, H, D) for query (B, H, S, D) and key, value (B, G, T, D); mask bool (B, 1, S, T).

    Long ones go through SDPA. A short step would spend its time there on copies of all keys and
    values, H / G of each; here every group of heads meets its keys where they lie.
    """
    if softcap is None and query.shape[2] > SHORT:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **other
        )
    weights = attention_weights(query, key, attention_mask, scaling, softcap)
    return attended(weights, value), None


def attention_weights(
    query: torch.Tensor,
    key: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
) -> torch.Tensor:
    """float32 (B, G, H / G, S, T), each row of T sums to 1; shapes as in `attend`."""
    count, heads, steps, width = query.shape
    groups, total = key.shape[1], key.shape[2]
    share = heads // groups
    grouped = query.reshape(count, groups, share * steps, width)
    weights = grouped @ key.transpose(-1, -2) * (width**-0.5 if scaling is None else scaling)
    if softcap is not None:
        weights = torch.tanh(weights / softcap) * softcap
    weights = weights.view(count, groups, share, steps, total).float()
    if attention_mask is None and steps > 1:
        # transformers leaves the mask out where it says no more than "causal"
        attention_mask = torch.ones(steps, total, dtype=torch.bool, device=query.device)
        attention_mask = attention_mask.tril(total - steps)[None, None]
    if attention_mask is not None:
        seen = attention_mask[:, :, None, :, :total]
        # not -inf: a row of padding sees nothing, and must stay finite
        weights = weights.masked_fill(~seen, torch.finfo(torch.float32).min)
    return weights.softmax(-1)


def attended(weights: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """(B, S, H, D) of weights (B, G, H / G, S, T) and value (B, G, T, D)."""
    count, groups, share, steps, total = weights.shape
    flat = weights.to(value.dtype).view(count, groups, share * steps, total)
    found = (flat @ value).view(count, groups * share, steps, -1)
    return found.transpose(1, 2).contiguous()


class WindowAttention(NamedTuple):
    """A function of `attend`'s arguments, and its name in transformers' attention interface."""

    name: str
    function: Callable[..., Any]


ATTEND = WindowAttention("dear_lists", attend)


@contextlib.contextmanager
def window_attention(model: Any, attention: WindowAttention = ATTEND) -> Iterator[None]:
    """The model attends by `attention` while this is open, if its class takes SDPA at all."""
    if not takes_attention(model):
        yield
        return
    config = model.config.get_text_config()
    with attending(config, attention.name, attention.function, sdpa_mask):
        yield


def takes_attention(model: Any) -> bool:
    """Whether its attention is a function that transformers looks up by name."""
    return bool(
        getattr(model, "_supports_sdpa", False)
        and getattr(model, "_supports_attention_backend", False)
    )


SPARE_COLUMNS = 96
"""Columns that are added at a time: a chain of 26 letters takes 77 tokens."""


@dataclass(slots=True)
class Slots:
    """Where the next forward pass stands: its rows, and the columns [start, stop) behind it."""

    count: int
    columns: int
    rows: slice
    start: int
    stop: int


class _SpareLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """Written in place: a step does not copy what was there before it."""

    def __init__(self, slots: Slots) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.slots = slots

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys: torch.Tensor = self._new(key_states)
        self.values: torch.Tensor = self._new(value_states)
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_args: Any, **_kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, heads, start … stop + S, D) keys and values of the rows, S new ones included."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        slots = self.slots
        end = slots.stop + key_states.shape[-2]
        self.keys[slots.rows, :, slots.stop : end] = key_states
        self.values[slots.rows, :, slots.stop : end] = value_states
        return (
            self.keys[slots.rows, :, slots.start : end],
            self.values[slots.rows, :, slots.start : end],
        )

    def get_seq_length(self) -> int:
        return self.slots.stop - self.slots.start

    def keep(self, rows: torch.Tensor | None) -> None:
        """Only these rows, in storage of the new size; all rows where None."""
        for name in ("keys", "values"):
            old = getattr(self, name)
            old = old[: self.slots.count] if rows is None else old.index_select(0, rows)
            new = self._new(old)
            new[:, :, : self.slots.stop] = old[:, :, : self.slots.stop]
            setattr(self, name, new)

    def _new(self, like: torch.Tensor) -> torch.Tensor:
        return like.new_zeros((self.slots.count, like.shape[1], self.slots.columns, like.shape[3]))


class WindowCache:
    """The cache of `count` windows, the longest of `width` tokens; all end at column `width`."""

    def __init__(self, layers: int, count: int, width: int, device: torch.device) -> None:
        self.slots = Slots(count, width + SPARE_COLUMNS, slice(0, count), 0, 0)
        self.layers = [_SpareLayer(self.slots) for _ in range(layers)]
        self.cache = Cache(layers=list(self.layers))
        self.mask = torch.zeros(count, self.slots.columns, dtype=torch.int64, device=device)
        """1 where a column of a row holds a token that is still meant."""

    def place(self, rows: slice, start: int, stop: int) -> None:
        self.slots.rows, self.slots.start, self.slots.stop = rows, start, stop

    def reserve(self, more: int) -> None:
        """Columns for `more` tokens behind `stop`."""
        slots = self.slots
        if slots.stop + more > slots.columns:
            slots.columns = slots.stop + more + SPARE_COLUMNS
            self._resize(None)

    def keep(self, rows: torch.Tensor) -> None:
        """Only these rows from now on, in this order."""
        self.slots.count = len(rows)
        self.slots.rows = slice(0, len(rows))
        self.mask = self.mask.index_select(0, rows)
        self._resize(rows)

    def forget(self, counts: list[int]) -> None:
        """Each row loses its last tokens, `counts` of them."""
        slots = self.slots
        most = max(counts, default=0)
        if not most:
            return
        tail = self.mask[:, slots.stop - most : slots.stop]
        if min(counts) == most and bool(tail.all()):
            slots.stop -= most
            self.mask[:, slots.stop :] = 0
            return
        for row, count in enumerate(counts):
            if count:
                columns = self.mask[row].nonzero()[-count:, 0]
                self.mask[row, columns] = 0

    def _resize(self, rows: torch.Tensor | None) -> None:
        for layer in self.layers:
            if layer.is_initialized:
                layer.keep(rows)
        mask = self.mask.new_zeros((self.slots.count, self.slots.columns))
        mask[:, : self.slots.stop] = self.mask[:, : self.slots.stop]
        self.mask = mask


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
        stop = cache.slots.stop
        cache.mask[:, stop : stop + ids.shape[1]] = mask
        hidden = self.hidden(ids, cache.mask[:, : stop + ids.shape[1]], cache)
        cache.slots.stop = stop + ids.shape[1]
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
