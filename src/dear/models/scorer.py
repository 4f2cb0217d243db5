"""Pairs to scores: token-budget batches, sorted by length, each different pair once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from dear.errors import BackendError, excerpt
from dear.models.contract import ScoringContract
from dear.models.encoding import Encoded, Pair, PairEncoder
from dear.models.loading import ScoringModel, pooled_logits

Progress = Callable[[int, int], None]
"""Called with (pairs done, pairs in all)."""

CPU_BATCH_TOKENS = 2048
"""Past about 4,000 tokens a batch falls out of a CPU's cache and gets slower."""

GPU_BATCH_TOKENS = 32768


def default_batch_tokens(device: torch.device) -> int:
    return CPU_BATCH_TOKENS if device.type == "cpu" else GPU_BATCH_TOKENS


def token_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Indices in batches of at most `budget` padded tokens (one sequence may exceed it alone).

    Longest first, so that the largest batch comes first and a lack of memory shows at once.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    batches: list[list[int]] = []
    current: list[int] = []
    for index in order:
        if current and lengths[current[0]] * (len(current) + 1) > budget:
            batches.append(current)
            current = []
        current.append(index)
    if current:
        batches.append(current)
    return batches


def collate(
    encoded: Sequence[Encoded], *, pad_id: int, side: str = "right"
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(input_ids, attention_mask, token_type_ids), each int64 (B, T)."""
    width = max(len(e) for e in encoded)
    ids = np.full((len(encoded), width), pad_id, dtype=np.int64)
    mask = np.zeros((len(encoded), width), dtype=np.int64)
    types = np.zeros((len(encoded), width), dtype=np.int64)
    for row, item in enumerate(encoded):
        n = len(item)
        where = slice(0, n) if side == "right" else slice(width - n, width)
        ids[row, where] = item.ids
        mask[row, where] = 1
        types[row, where] = item.types
    return torch.from_numpy(ids), torch.from_numpy(mask), torch.from_numpy(types)


class Scorer:
    """Scores pairs with a one-logit model.

    A score is that of the pair alone: it depends on neither its neighbours, nor the order, nor
    the padding, to the rounding of the dtype.
    """

    def __init__(self, model: ScoringModel, *, batch_tokens: int | None = None) -> None:
        self.model = model
        self.encoder = PairEncoder(model.tokenizer, model.contract)
        self.batch_tokens = batch_tokens or default_batch_tokens(model.device)

    @property
    def name(self) -> str:
        return self.model.name

    @property
    def revision(self) -> str:
        return self.model.revision

    @property
    def contract(self) -> ScoringContract:
        return self.model.contract

    @property
    def fingerprint(self) -> str:
        return self.model.contract.fingerprint

    @property
    def parameters(self) -> int:
        return self.model.parameters

    def score(self, pairs: Sequence[Pair], progress: Progress | None = None) -> NDArray[np.float32]:
        """float32 (len(pairs),) logits in the order given. BackendError for a score that is not
        finite, with the pair that gave it."""
        slots: dict[Pair, int] = {}
        back = np.array([slots.setdefault(pair, len(slots)) for pair in pairs], dtype=np.int64)
        unique = list(slots)
        encoded = self.encoder.encode(unique)
        scores = np.empty(len(unique), dtype=np.float32)
        done = 0
        for batch in token_batches([len(e) for e in encoded], self.batch_tokens):
            scores[batch] = self._forward([encoded[i] for i in batch])
            done += len(batch)
            if progress is not None:
                progress(done * len(pairs) // max(len(unique), 1), len(pairs))
        bad = np.flatnonzero(~np.isfinite(scores))
        if len(bad):
            query, passage = unique[int(bad[0])]
            raise BackendError(
                f"{self.model.name}: score {scores[bad[0]]} for query {excerpt(query)}, "
                f"passage {excerpt(passage)}; try dtype float32"
            )
        return scores[back]

    def stream(self, pairs: Iterable[Pair], *, chunk: int = 8192) -> Iterator[float]:
        """Scores of any number of pairs, one by one and in order, in constant memory."""
        held: list[Pair] = []
        for pair in pairs:
            held.append(pair)
            if len(held) == chunk:
                yield from self.score(held).tolist()
                held = []
        if held:
            yield from self.score(held).tolist()

    def _forward(self, encoded: Sequence[Encoded]) -> NDArray[np.float32]:
        device = self.model.device
        ids, mask, types = collate(
            encoded,
            pad_id=self.model.tokenizer.pad_token_id,
            side=self.model.contract.padding_side,
        )
        with torch.inference_mode():
            logits = pooled_logits(
                self.model.model, ids.to(device), mask.to(device), types.to(device)
            )
        return logits.cpu().numpy().astype(np.float32, copy=False)
