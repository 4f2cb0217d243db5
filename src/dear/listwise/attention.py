"""Attention for windows: long prompts, then short steps behind them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch

from dear.scoring.attention import attending

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
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

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
    from transformers.masking_utils import sdpa_mask

    config = model.config.get_text_config()
    with attending(config, attention.name, attention.function, sdpa_mask):
        yield


def takes_attention(model: Any) -> bool:
    """Whether its attention is a function that transformers looks up by name."""
    return bool(
        getattr(model, "_supports_sdpa", False)
        and getattr(model, "_supports_attention_backend", False)
    )
