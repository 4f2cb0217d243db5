"""Sequences laid end to end, without padding: one row of tokens, attention within each alone.

Everything but attention works on single tokens, so it runs on one row of all tokens of a batch.
Attention is ours, registered in transformers' attention interface: on a GPU
`torch.nn.attention.varlen`, elsewhere a product for each run of sequences of one length.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F
from transformers.modeling_outputs import BaseModelOutputWithPooling

from dear.checkpoints.heads import first_position, takes, takes_argument
from dear.checkpoints.threads import exclusive
from dear.checkpoints.wrappers import bare_model
from dear.errors import ConfigError
from dear.scoring.attention import attending
from dear.scoring.batching import Progress
from dear.scoring.encoding import Encoded
from dear.scoring.engines.padded import PaddedEngine
from dear.scoring.loading import ScoringModel

ATTENTION = "dear_packed"
"""Its name in transformers' attention interface."""

REFUSED = ("softcap", "s_aux", "position_bias")
"""Arguments of an attention that computes something else than softmax(q k) v."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Layout:
    """Where the sequences of a row of tokens stand.

    bounds: int32 (B + 1,) on the device: sequence i is [bounds[i], bounds[i + 1]).
    runs:   (first token, sequences, length) of neighbours that are equally long.
    """

    lengths: tuple[int, ...]
    bounds: torch.Tensor
    runs: tuple[tuple[int, int, int], ...]

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device) -> Layout:
        bounds = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32)
        runs, at = [], 0
        for length, group in itertools.groupby(lengths):
            count = len(list(group))
            runs.append((at, count, length))
            at += count * length
        return cls(tuple(lengths), bounds.to(device), tuple(runs))


_layout: ContextVar[Layout] = ContextVar("layout")


class PackedEngine:
    """Unpadded batches; for models that `packs` accepts, others run padded.

    batch_tokens: tokens of a batch, none of them padding.
    """

    def __init__(self, model: ScoringModel, batch_tokens: int) -> None:
        self.model = model
        self.batch_tokens = batch_tokens
        self.bare = bare_model(model.model)
        self.body = getattr(self.bare, self.bare.base_model_prefix)

    def run(
        self,
        encoded: Sequence[Encoded],
        progress: Progress | None = None,
        total: int | None = None,
    ) -> NDArray[np.float32]:
        """float32 (n,) logits in the order of `encoded`."""
        total = len(encoded) if total is None else total
        order = sorted(range(len(encoded)), key=lambda i: -len(encoded[i]))
        scores = np.empty(len(encoded), dtype=np.float32)
        done = 0
        for rows in self._batches(encoded, order):
            scores[rows] = self.forward([encoded[i] for i in rows])
            done += len(rows)
            if progress is not None:
                progress(done * total // len(encoded), total)
        return scores

    def _batches(self, encoded: Sequence[Encoded], order: Sequence[int]) -> Iterator[list[int]]:
        """Longest first, filled to the budget."""
        batch: list[int] = []
        tokens = 0
        for i in order:
            if batch and tokens + len(encoded[i]) > self.batch_tokens:
                yield batch
                batch, tokens = [], 0
            batch.append(i)
            tokens += len(encoded[i])
        if batch:
            yield batch

    def forward(self, encoded: Sequence[Encoded]) -> NDArray[np.float32]:
        """float32 (B,) logits of one batch."""
        device = self.model.device
        layout = Layout.of([len(e) for e in encoded], device)
        with exclusive(self.bare), torch.inference_mode():
            with _packed(self.body, layout):
                hidden = self._hidden(encoded, layout)
            logits = self._logits(hidden, layout)
        return np.asarray(logits[:, 0].float().cpu().numpy(), dtype=np.float32)

    def _hidden(self, encoded: Sequence[Encoded], layout: Layout) -> torch.Tensor:
        """(T, H) hidden states of all tokens."""
        inputs: dict[str, Any] = {"input_ids": _row([t for e in encoded for t in e.ids])}
        start = first_position(self.body.config)
        places = [start + i for n in layout.lengths for i in range(n)]
        inputs["position_ids"] = _row(places)
        if not self.model.is_decoder and takes(self.body, "token_type_ids"):
            inputs["token_type_ids"] = _row([t for e in encoded for t in e.types])
        inputs = {name: tensor.to(self.model.device) for name, tensor in inputs.items()}
        if takes(self.body, "use_cache"):
            inputs["use_cache"] = False
        return cast(torch.Tensor, self.body(**inputs).last_hidden_state[0])

    def _logits(self, hidden: torch.Tensor, layout: Layout) -> torch.Tensor:
        """(B, 1) logits: a decoder's last tokens; an encoder's own head over padded states."""
        if self.model.is_decoder:
            return cast(torch.Tensor, self.bare.score(hidden[layout.bounds[1:].long() - 1]))
        states = torch.nn.utils.rnn.pad_sequence(
            list(torch.split(hidden, list(layout.lengths))), batch_first=True
        )
        lengths = torch.tensor(layout.lengths, device=hidden.device)
        mask = torch.arange(states.shape[1], device=hidden.device) < lengths[:, None]
        pooler = getattr(self.body, "pooler", None)

        def known(*_args: Any, **_kwargs: Any) -> Any:
            pooled = pooler(states) if pooler is not None else None
            return BaseModelOutputWithPooling(last_hidden_state=states, pooler_output=pooled)

        # the model's own pooling and head, whatever they are, over states that are known
        self.body.forward = known
        try:
            ids = torch.zeros(states.shape[:2], dtype=torch.long, device=hidden.device)
            return cast(torch.Tensor, self.bare(input_ids=ids, attention_mask=mask.long()).logits)
        finally:
            del self.body.forward


def packs(model: ScoringModel) -> bool:
    """True if this model gives packed sequences the scores that it gives padded ones.

    Tried out on a few tokens: sequences of several lengths, one of them longer than any sliding
    window of up to 64 tokens. Models with attention of their own, or with arguments that ours
    cannot honour, are False.
    """
    bare = bare_model(model.model)
    if not takes(getattr(bare, bare.base_model_prefix), "position_ids"):
        return False
    vocabulary = bare.get_input_embeddings().num_embeddings
    probe = []
    for n in (5, 80, 17, 17, 1, 33):
        ids = [(7919 * i + 11 * n) % vocabulary for i in range(n)]
        # RoBERTa counts no position for it
        ids = [i + 1 if i == bare.config.pad_token_id else i for i in ids]
        probe.append(Encoded(ids, [0] * (n // 2) + [1] * (n - n // 2)))
    try:
        mine = PackedEngine(model, 120).run(probe)
    except Exception as error:  # whatever a strange model may raise
        logger.debug("%s does not pack: %s", model.name, error)
        return False
    theirs = PaddedEngine(model, 120).run(probe)
    spread = float(np.ptp(theirs)) + 1e-3
    worst = float(np.abs(mine - theirs).max())
    exact = model.contract.dtype == "float32"
    return worst <= (1e-4 * (1 + float(np.abs(theirs).max())) if exact else 0.2 * spread)


def _row(values: list[int]) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.long)


@contextmanager
def _packed(body: Any, layout: Layout) -> Iterator[None]:
    """Inside, the body's attention is ours and stays within the sequences of `layout`."""
    token = _layout.set(layout)
    try:
        with attending(body.config, ATTENTION, packed_attention):
            yield
    finally:
        _layout.reset(token)


def packed_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    **other: Any,
) -> tuple[torch.Tensor, None]:
    """query (1, heads, T, D), key and value (1, key heads, T, D) → (1, T, heads, D).

    sliding_window: tokens seen on a side, the own one included; on both sides by an encoder.
    ConfigError for what this is not: `packs` then says no.
    """
    if attention_mask is not None or any(other.get(name) is not None for name in REFUSED):
        raise ConfigError("attention with a mask or a bias of its own is not packed")
    layout = _layout.get()
    causal = bool(getattr(module, "is_causal", True) if is_causal is None else is_causal)
    window = sliding_window if sliding_window else None
    if query.is_cuda:
        return _on_gpu(layout, query, key, value, scaling, causal, window), None
    groups = query.shape[1] // key.shape[1]
    out = torch.empty_like(query.transpose(1, 2)[0])
    for first, count, length in layout.runs:
        part = slice(first, first + count * length)

        def cut(states: torch.Tensor, part: slice = part, count: int = count) -> torch.Tensor:
            # (1, heads, T, D) → (count, heads, length, D)
            heads, _, width = states.shape[1:]
            return states[0, :, part].reshape(heads, count, -1, width).transpose(0, 1)

        found = F.scaled_dot_product_attention(
            cut(query),
            cut(key),
            cut(value),
            attn_mask=_seen(length, causal, window, query),
            is_causal=causal and (window is None or window >= length),
            scale=scaling,
            enable_gqa=groups > 1,
        )
        out[part] = found.transpose(1, 2).flatten(0, 1)
    return out[None], None


def _seen(
    length: int, causal: bool, window: int | None, query: torch.Tensor
) -> torch.Tensor | None:
    """bool (L, L) mask of a window; None where all, or all before, is seen."""
    if window is None:
        return None
    if causal and window >= length:
        return None
    places = torch.arange(length, device=query.device)
    distance = places[:, None] - places[None, :]
    if causal:
        return (distance >= 0) & (distance < window)
    return distance.abs() < window


def _on_gpu(
    layout: Layout,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
    causal: bool,
    window: int | None,
) -> torch.Tensor:
    from torch.nn.attention.varlen import varlen_attn

    reach = -1 if window is None else window - 1
    longest = max(layout.lengths)
    q, k, v = (states[0].transpose(0, 1).contiguous() for states in (query, key, value))
    options: dict[str, Any] = {"window_size": (reach, 0 if causal else reach)}
    # PyTorch 2.11 has no such argument: its kernel takes grouped heads unasked
    if takes_argument(varlen_attn, "enable_gqa"):
        options["enable_gqa"] = query.shape[1] != key.shape[1]
    found = varlen_attn(
        q, k, v, layout.bounds, layout.bounds, longest, longest, scale=scaling, **options
    )
    return cast(torch.Tensor, found)[None]
