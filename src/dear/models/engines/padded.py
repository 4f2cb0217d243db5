"""transformers' forward pass over padded token-budget batches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from dear.models.batching import Grid, Progress, collate, grid_for, in_batches
from dear.models.encoding import Encoded
from dear.models.engines.one_position import reading, reads_one
from dear.models.heads import pooled_logits, read_positions
from dear.models.loading import ScoringModel
from dear.models.threads import exclusive


class PaddedEngine:
    """Like lengths stand together, so that little of a batch is padding.

    grid: the shapes of its batches; what suits the device where None.
    whole: the last layer computes for every token, as transformers' own forward pass does.
    tokens_padded: of all batches so far, padding counted.
    """

    def __init__(
        self,
        model: ScoringModel,
        batch_tokens: int,
        grid: Grid | None = None,
        *,
        whole: bool = False,
    ) -> None:
        self.model = model
        self.batch_tokens = batch_tokens
        self.tokens_padded = 0
        self.whole = whole or not reads_one(model)
        contract = model.contract
        self.grid = grid or grid_for(model.device, contract.dtype, contract.longest)

    def run(
        self,
        encoded: Sequence[Encoded],
        progress: Progress | None = None,
        total: int | None = None,
    ) -> NDArray[np.float32]:
        """float32 (n,) logits in the order of `encoded`."""
        return in_batches(encoded, self.batch_tokens, self.forward, progress, total, self.grid)

    def forward(self, encoded: Sequence[Encoded]) -> NDArray[np.float32]:
        """float32 (n,) logits of one batch."""
        device = self.model.device
        width = self.grid.widened(max(map(len, encoded)))
        ids, mask, types = collate(
            encoded,
            pad_id=self.model.tokenizer.pad_token_id,
            # an encoder's head reads the first position
            side=self.model.contract.padding_side if self.model.is_decoder else "right",
            width=width,
        )
        ids, mask, types = ids.to(device), mask.to(device), types.to(device)
        model = self.model.model
        alone = None if self.whole else read_positions(model, mask)
        with exclusive(model), torch.inference_mode(), reading(alone):
            self.tokens_padded += width * len(encoded)
            logits = pooled_logits(model, ids, mask, types)
        return logits.cpu().numpy().astype(np.float32, copy=False)
