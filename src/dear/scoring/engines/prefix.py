"""The beginning that many sequences share, computed once: a query, for all of its passages.

A causal decoder's keys and values of a token depend on the tokens before it alone. So a set of
sequences with a common prefix needs one forward pass over the prefix and one over what each
sequence has of its own, which attends to the kept keys and values.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from dear.checkpoints.threads import exclusive
from dear.checkpoints.wrappers import bare_model
from dear.scoring.batching import ANY_SHAPE, Grid, Progress, in_batches, token_batches
from dear.scoring.encoding import Encoded
from dear.scoring.engines.one_position import reading
from dear.scoring.engines.padded import PaddedEngine
from dear.scoring.loading import ScoringModel
from dear.scoring.tensors import collate


@dataclass(frozen=True, slots=True)
class PrefixSet:
    """Sequences that begin with the same `prefix` tokens; each goes on after them."""

    prefix: int
    members: tuple[int, ...]

    @property
    def saved(self) -> int:
        """Tokens that are not computed again."""
        return self.prefix * (len(self.members) - 1)


def common_prefixes(sequences: Sequence[Sequence[int]], set_tokens: int) -> list[PrefixSet]:
    """Disjoint sets: all sequences that begin with a prefix and go on after it, for the prefixes
    that save the most tokens, less `set_tokens` for each set."""
    order = sorted(range(len(sequences)), key=lambda i: list(sequences[i]))
    spans = [_Span(0, 0)]
    # a span is a run of neighbours in order; its prefix is the shortest that two of them share.
    # Spans nest: the last in `spans` is the innermost that is still open.
    for place, index in enumerate(order):
        last = place + 1 == len(order)
        shared = 0 if last else _shared(sequences[index], sequences[order[place + 1]])
        inner = _Span(shared, place)
        while spans[-1].prefix > shared:
            closed = spans.pop()
            closed.take(inner)
            closed.settle(place + 1, set_tokens)
            inner = closed
        if spans[-1].prefix == shared:
            spans[-1].take(inner)
        else:
            spans.append(_Span(shared, inner.start, inner.gain, inner.sets))
    return [PrefixSet(prefix, tuple(order[start:stop])) for prefix, start, stop in spans[0].sets]


@dataclass(slots=True)
class _Span:
    """The best found for neighbours from `start` on: (prefix, start, stop) of each set."""

    prefix: int
    start: int
    gain: int = 0
    sets: tuple[tuple[int, int, int], ...] = ()

    def take(self, inner: _Span) -> None:
        self.gain += inner.gain
        self.sets += inner.sets

    def settle(self, stop: int, set_tokens: int) -> None:
        """One set for all, if that gains more than the sets within."""
        gain = self.prefix * (stop - self.start - 1) - set_tokens
        if gain > self.gain:
            self.gain, self.sets = gain, ((self.prefix, self.start, stop),)


def _shared(a: Sequence[int], b: Sequence[int]) -> int:
    """Tokens of the common prefix that leaves each a token of its own; sequences of 1 or more."""
    limit = min(len(a), len(b)) - 1
    return next((i for i in range(limit) if a[i] != b[i]), limit)


SET_TOKENS = 8
"""Tokens that a set must save to be one: less is lost again in copies of keys and values."""

CPU_PASS_TOKENS = 64
"""Two forward passes cost a CPU this many tokens before they compute any (135M weights)."""

GPU_PASS_TOKENS = 4096
"""The same for a GPU, where starting the kernels of a small model takes longer. A guess."""

PREFIX_PART = 8
"""A pass over prefixes has this part of a batch's tokens: their keys and values are kept."""

LAYER_TYPES = {"full_attention", "sliding_attention"}
LENGTH_BOUND_ROPES = {"dynamic", "longrope"}
"""Rotary embeddings whose angles change with the length of the sequence, or of its batch."""

logger = logging.getLogger(__name__)


class PrefixEngine:
    """Sequences with a common beginning share its keys and values; the rest is padded as ever.

    For models that `shares_prefix` accepts.

    set_tokens:   a set saves more than this many tokens, or its members stand alone.
    pass_tokens:  sets are computed some at a time, and these save more than this many tokens
                  together, or they are padded; a default for the device where None.
    """

    def __init__(
        self,
        model: ScoringModel,
        batch_tokens: int,
        *,
        set_tokens: int = SET_TOKENS,
        pass_tokens: int | None = None,
    ) -> None:
        on_cpu = model.device.type == "cpu"
        default = CPU_PASS_TOKENS if on_cpu else GPU_PASS_TOKENS
        self.model = model
        self.batch_tokens = batch_tokens
        self.set_tokens = set_tokens
        self.pass_tokens = default if pass_tokens is None else pass_tokens
        self.padded = PaddedEngine(model, batch_tokens)

    def run(
        self,
        encoded: Sequence[Encoded],
        progress: Progress | None = None,
        total: int | None = None,
    ) -> NDArray[np.float32]:
        """float32 (n,) logits in the order of `encoded`.

        Keys and values are kept for `batch_tokens / PREFIX_PART` tokens at a time.
        """
        scores = np.empty(len(encoded), dtype=np.float32)
        total = len(encoded) if total is None else total
        done = 0

        def report(now: int, _all: int) -> None:
            if progress is not None:
                progress((done + now) * total // len(encoded), total)

        alone = set(range(len(encoded)))
        for sets in self.passes(encoded):
            members = [i for each in sets for i in each.members]
            scores[members] = self._run_sets([encoded[i] for i in members], sets, report)
            alone.difference_update(members)
            done += len(members)
        if alone:
            left = sorted(alone)
            scores[left] = self.padded.run([encoded[i] for i in left], report)
        return scores

    def passes(self, encoded: Sequence[Encoded]) -> list[list[PrefixSet]]:
        """Sets worth sharing, in the groups whose prefixes go through the model together."""
        sets = common_prefixes([item.ids for item in encoded], self.set_tokens)
        budget = max(1, self.batch_tokens // PREFIX_PART)
        groups = [
            [sets[i] for i in batch]
            for batch in token_batches([each.prefix for each in sets], budget)
        ]
        return [group for group in groups if sum(s.saved for s in group) > self.pass_tokens]

    def _run_sets(
        self, encoded: Sequence[Encoded], sets: Sequence[PrefixSet], progress: Progress
    ) -> NDArray[np.float32]:
        """float32 logits of the sets' members, which stand in `encoded` set after set."""
        prefixes: list[list[int]] = []
        rests: list[_Rest] = []
        items = iter(encoded)
        for row, each in enumerate(sets):
            ids = [next(items).ids for _ in each.members]
            prefixes.append(ids[0][: each.prefix])
            rests += [_Rest(row, one[each.prefix :]) for one in ids]
        with torch.inference_mode():
            shared = _Shared(self.model, prefixes, self.padded.grid, whole=self.padded.whole)
            return in_batches(
                rests, self.batch_tokens, shared.logits, progress, grid=self.padded.grid
            )


@dataclass(frozen=True, slots=True)
class _Rest:
    """What a sequence has after prefix `row`; one token or more."""

    row: int
    ids: list[int]

    def __len__(self) -> int:
        return len(self.ids)


class _Shared:
    """The keys and values of some prefixes, read by any number of batches. Under inference mode.

    The prefixes are padded on the left, so that each stands right before what follows it:
    distances between positions, and so sliding windows and ALiBi, are those of the sequence.
    """

    def __init__(
        self,
        model: ScoringModel,
        prefixes: Sequence[list[int]],
        grid: Grid = ANY_SHAPE,
        *,
        whole: bool = True,
    ) -> None:
        self.model = model
        self.grid = grid
        self.whole = whole
        self.bare = bare_model(model.model)
        self.body = getattr(self.bare, self.bare.base_model_prefix)
        self.takes_positions = "position_ids" in _arguments(self.body)
        ids, self.mask = self._collate(prefixes, "left")
        # without the model's configuration: full layers keep what a sliding one would drop
        cache = DynamicCache()
        self._hidden(ids, self.mask, cache)
        layers: list[Any] = cache.layers
        self.kept = [(layer.keys, layer.values) for layer in layers]

    def logits(self, rests: Sequence[_Rest]) -> NDArray[np.float32]:
        """float32 (B,) logits of one batch."""
        with exclusive(self.bare):
            logits = self.bare.score(self.pooled(rests))[:, 0].float()
        return np.asarray(logits.cpu().numpy(), dtype=np.float32)

    def pooled(self, rests: Sequence[_Rest]) -> torch.Tensor:
        """(B, H) hidden states of the last tokens."""
        width = self.grid.widened(max(map(len, rests)))
        ids, mask = self._collate([rest.ids for rest in rests], "right", width)
        rows = torch.tensor([rest.row for rest in rests], device=self.model.device)
        cache = Cache(layers=[_FrozenLayer(*both, rows) for both in self.kept])
        last = mask.sum(-1) - 1
        with reading(None if self.whole else last):
            hidden = self._hidden(ids, torch.cat([self.mask[rows], mask], dim=1), cache)
        return hidden[torch.arange(len(rests), device=self.model.device), last]

    def _collate(
        self, some: Sequence[list[int]], side: str, width: int | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        items = [Encoded(ids, [0] * len(ids)) for ids in some]
        pad_id = self.model.tokenizer.pad_token_id
        ids, mask, _ = collate(items, pad_id=pad_id, side=side, width=width)
        return ids.to(self.model.device), mask.to(self.model.device)

    def _hidden(self, ids: torch.Tensor, mask: torch.Tensor, cache: Cache) -> torch.Tensor:
        """(B, T, H) hidden states of `ids` (B, T); mask (B, S + T) with S positions cached."""
        extra = {}
        if self.takes_positions:
            extra["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        with exclusive(self.bare):
            output = self.body(
                input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, **extra
            )
        return cast(torch.Tensor, output.last_hidden_state)


class _FrozenLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """Keys and values (P, heads, S, D) that are lent to a batch: never written, never grown."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, rows: torch.Tensor) -> None:
        """rows: int64 (B,), the prefix of each sequence of the batch."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.keys: torch.Tensor = keys
        self.values: torch.Tensor = values
        self.rows = rows
        self.dtype, self.device = keys.dtype, keys.device
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_args: Any, **_kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, heads, S + T, D) keys and values: those kept, then those given."""
        return self._before(self.keys, key_states), self._before(self.values, value_states)

    def _before(self, kept: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        one = len(kept) == 1
        ours = kept.expand(len(new), -1, -1, -1) if one else kept.index_select(0, self.rows)
        return torch.cat([ours, new], dim=-2)


def _arguments(module: Any) -> set[str]:
    return set(inspect.signature(type(module).forward).parameters)


def shares_prefix(model: ScoringModel) -> bool:
    """True if a prefix's keys and values give this model the scores that it gives without.

    Asks the configuration for what would show in long sequences only, and tries the rest out on
    a few tokens. False for encoders, for decoders that read both ways, keep other states than
    keys and values or stretch their rotary embeddings with the length, and for adapters that
    work outside the layers (prompt tuning) or on chosen tokens.
    """
    if not model.is_decoder or not _adapters_are_plain(model.model):
        return False
    bare = bare_model(model.model)
    config = bare.config.get_text_config(decoder=True)
    ropes = getattr(config, "rope_parameters", None) or {}
    kinds = {r.get("rope_type") for r in (ropes, *ropes.values()) if isinstance(r, dict)}
    if (
        not set(getattr(config, "layer_types", None) or ()) <= LAYER_TYPES
        or getattr(config, "attention_chunk_size", None) is not None
        or kinds & LENGTH_BOUND_ROPES
        or "past_key_values" not in _arguments(getattr(bare, bare.base_model_prefix))
    ):
        return False
    try:
        return _agrees(model)
    except Exception as error:  # whatever a strange cache may raise
        logger.debug("%s shares no prefixes: %s", model.name, error)
        return False


def _adapters_are_plain(model: Any) -> bool:
    """True if peft's adapters, if any, all stand in the layers and see every token alike."""
    adapters = getattr(getattr(model, "module", model), "peft_config", None) or {}
    return all(
        str(getattr(a.peft_type, "value", a.peft_type)) == "LORA"
        and getattr(a, "alora_invocation_tokens", None) is None
        for a in adapters.values()
    )


def _agrees(model: ScoringModel) -> bool:
    """True if short sequences have the hidden states that they have without a cache, to the
    rounding of the dtype: two of one prefix, one of a shorter prefix."""
    vocabulary = model.model.get_input_embeddings().num_embeddings
    ids = [(7919 * i + 11) % vocabulary for i in range(40)]
    prefixes = [ids[:7], ids[7:12]]
    rests = [_Rest(0, ids[12:17]), _Rest(0, ids[17:20]), _Rest(1, ids[20:])]
    with exclusive(model.model), torch.inference_mode():
        shared = _Shared(model, prefixes)
        for found, rest in zip(shared.pooled(rests).float(), rests, strict=True):
            whole = torch.tensor([prefixes[rest.row] + rest.ids], device=model.device)
            hidden = shared.body(
                input_ids=whole, attention_mask=torch.ones_like(whole), use_cache=False
            ).last_hidden_state[0, -1]
            error = (found - hidden.float()).norm() / hidden.float().norm()
            if not error < (1e-3 if hidden.dtype == torch.float32 else 0.1):
                return False
    return True
