"""Another attention for a while, through transformers' attention interface."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from transformers import AttentionInterface, AttentionMaskInterface


@contextmanager
def attending(
    config: Any,
    name: str,
    attention: Callable[..., Any],
    mask: Callable[..., Any] | None = None,
) -> Iterator[None]:
    """Inside, models of this configuration attend by `attention`, known to transformers as `name`.

    In a turn of the model's (dear.checkpoints.threads): all of its passes attend so.

    mask: makes the mask that `attention` reads, from transformers' masking functions; None for
    an attention that is handed the mask as it is, or needs none.
    """
    AttentionInterface.register(name, attention)
    if mask is not None:
        AttentionMaskInterface.register(name, mask)
    before = config._attn_implementation
    config._attn_implementation = name
    try:
        yield
    finally:
        config._attn_implementation = before
