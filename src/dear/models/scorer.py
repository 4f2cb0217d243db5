"""Pairs to scores: each different pair once, in the caller's order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from dear.models.batching import Progress, pick_batch_tokens, require_finite
from dear.models.contract import ScoringContract
from dear.models.encoding import Pair, PairEncoder
from dear.models.engines import Engine
from dear.models.engines.padded import PaddedEngine
from dear.models.loading import ScoringModel


class Scorer:
    """Scores pairs with a one-logit model.

    A score is that of the pair alone: it depends on neither its neighbours, nor the order, nor
    the padding, to the rounding of the dtype.
    """

    def __init__(self, model: ScoringModel, *, batch_tokens: int | None = None) -> None:
        self.model = model
        self.encoder = PairEncoder(model.tokenizer, model.contract)
        self.batch_tokens = pick_batch_tokens(batch_tokens, model.device)
        self.engine: Engine = PaddedEngine(model, self.batch_tokens)

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
        if not pairs:
            return np.empty(0, dtype=np.float32)
        slots: dict[Pair, int] = {}
        back = [slots.setdefault(pair, len(slots)) for pair in pairs]
        unique = list(slots)
        encoded = self.encoder.encode(unique)
        scores = self.engine.run(encoded, progress, len(pairs))
        require_finite(self.name, scores, unique)
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
