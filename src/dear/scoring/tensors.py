"""Batches as PyTorch's tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from dear.scoring.batching import padded
from dear.scoring.encoding import Encoded


def collate(
    encoded: Sequence[Encoded], *, pad_id: int, side: str = "right", width: int | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`padded`: (input_ids, attention_mask, token_type_ids), each int64 (B, T)."""
    ids, mask, types = padded(encoded, pad_id=pad_id, side=side, width=width)
    return torch.from_numpy(ids), torch.from_numpy(mask), torch.from_numpy(types)
