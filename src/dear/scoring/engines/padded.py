"""transformers' forward pass over padded token-budget batches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from dear.checkpoints.heads import pooled_logits, read_positions
from dear.checkpoints.threads import exclusive
from dear.checkpoints.wrappers import bare_model
from dear.scoring.batching import ONE_LENGTH, Grid, Progress, grid_for, in_batches
from dear.scoring.company import PROBE, READ_PADDING, depends_on_company, tell
from dear.scoring.encoding import Encoded, PairEncoder
from dear.scoring.engines.one_position import reading, reads_one
from dear.scoring.loading import ScoringModel
from dear.scoring.tensors import collate


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
        if looks_at_padding(model):
            grid = ONE_LENGTH
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
        width = self.grid.widened(max(map(len, encoded)))
        with exclusive(self.model.model):
            self.tokens_padded += width * len(encoded)
            return _forward(self.model, encoded, width, whole=self.whole)


def _forward(
    model: ScoringModel, encoded: Sequence[Encoded], width: int, *, whole: bool
) -> NDArray[np.float32]:
    """float32 (n,) logits of one batch, padded to `width` tokens."""
    ids, mask, types = (
        tensor.to(model.device)
        for tensor in collate(
            encoded,
            pad_id=model.tokenizer.pad_token_id,
            # an encoder's head reads the first position
            side=model.contract.padding_side if model.is_decoder else "right",
            width=width,
        )
    )
    alone = None if whole else read_positions(model.model, mask)
    with exclusive(model.model), torch.inference_mode(), reading(alone):
        logits = pooled_logits(model.model, ids, mask, types)
    return logits.cpu().numpy().astype(np.float32, copy=False)


def looks_at_padding(model: ScoringModel) -> bool:
    """True for a model whose score changes with the padding beside a pair; tried out and told
    once."""
    if model.is_decoder:  # what stands behind a token is not seen, and what is masked neither
        return False
    bare = bare_model(model.model)
    known: bool | None = getattr(bare, "dear_looks_at_padding", None)
    if known is None:
        known = model.model.config.model_type in READ_PADDING or depends_on_company(
            lambda encoded: _forward(model, encoded, max(map(len, encoded)), whole=True),
            PairEncoder(model.tokenizer, model.contract).encode(PROBE),
            exact=model.contract.dtype == "float32",
        )
        if known:
            tell(model.name)
        bare.dear_looks_at_padding = known
    return known
