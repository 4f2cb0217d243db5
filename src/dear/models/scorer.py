"""Pairs to scores: each different pair once, in the caller's order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing

import numpy as np
from numpy.typing import NDArray

from dear.models.batching import (
    Progress,
    ahead,
    chunk_pairs,
    in_chunks,
    pick_batch_tokens,
    require_finite,
)
from dear.models.budget import load_batch_tokens, probe_batch_tokens, remember_batch_tokens
from dear.models.contract import ScoringContract
from dear.models.encoding import Encoded, Pair, PairEncoder
from dear.models.engines import Engine
from dear.models.engines.padded import PaddedEngine
from dear.models.exported import ExportedModel
from dear.models.loading import ScoringModel


class Scorer:
    """Scores pairs with a one-logit model.

    A score is that of the pair alone: it depends on neither its neighbours, nor the order, nor
    the padding, to the rounding of the dtype.

    batch_tokens: padded tokens in a batch. None: what `tune` once found for this machine and
        model, else a default for the device.
    """

    def __init__(
        self, model: ScoringModel | ExportedModel, *, batch_tokens: int | None = None
    ) -> None:
        self.model = model
        self._shares_prefix: bool | None = None
        self.encoder = PairEncoder(model.tokenizer, model.contract)
        if batch_tokens is None:
            batch_tokens = load_batch_tokens(model)
        self.use_batch_tokens(pick_batch_tokens(batch_tokens, model.device))

    def use_batch_tokens(self, batch_tokens: int) -> None:
        self.batch_tokens = batch_tokens
        self.engine: Engine = self.make_engine(batch_tokens)

    def make_engine(self, batch_tokens: int) -> Engine:
        """The engine that suits the model, with this budget."""
        if isinstance(self.model, ExportedModel):
            return self.model.engine(batch_tokens)
        if self.model.is_decoder:
            from dear.models.engines.prefix import PrefixEngine, shares_prefix

            if self._shares_prefix is None:
                self._shares_prefix = shares_prefix(self.model)
            if self._shares_prefix:
                return PrefixEngine(self.model, batch_tokens)
        return PaddedEngine(self.model, batch_tokens)

    def tune(self, *, limit_s: float = 20.0) -> int:
        """Find the fastest token budget for this machine and model, use it and remember it.

        It takes a few seconds for a small model and at most about `limit_s` for a large one; a
        model too slow to compare budgets in that time keeps the one it has.
        """
        found = probe_batch_tokens(
            self.make_engine,
            len(self.model.tokenizer),
            device=self.model.device,
            longest=self.contract.longest,
            limit_s=limit_s,
        )
        if found is not None:
            remember_batch_tokens(self.model, found)
            self.use_batch_tokens(found)
        return self.batch_tokens

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
        unique, back = _distinct(pairs)
        parts: list[NDArray[np.float32]] = []
        done = 0

        def report(now: int, _chunk: int) -> None:
            if progress is not None:
                progress((done + now) * len(pairs) // len(unique), len(pairs))

        chunks = in_chunks(unique, chunk_pairs(self.batch_tokens))
        with closing(ahead(chunks, self.encoder.encode)) as ready:
            for chunk, encoded in ready:
                parts.append(self._run(chunk, encoded, report))
                done += len(chunk)
        return np.concatenate(parts)[back]

    def stream(self, pairs: Iterable[Pair], *, chunk: int | None = None) -> Iterator[float]:
        """Scores of any number of pairs, one by one and in order, in constant memory.

        chunk: pairs that are sorted by length at once; 8,192, or more for large batches.
        Two chunks are held: one in the model, and the next one, which is tokenised meanwhile.
        Identical pairs in a chunk are scored once. An error of `pairs` itself is raised after the
        scores of the whole chunks before it.
        """
        size = chunk_pairs(self.batch_tokens) if chunk is None else chunk
        distinct = (_distinct(held) for held in in_chunks(pairs, size))
        with closing(ahead(distinct, lambda one: self.encoder.encode(one[0]))) as ready:
            for (unique, back), encoded in ready:
                yield from self._run(unique, encoded)[back].tolist()
                del unique, encoded

    def _run(
        self, pairs: Sequence[Pair], encoded: list[Encoded], progress: Progress | None = None
    ) -> NDArray[np.float32]:
        scores = self.engine.run(encoded, progress)
        require_finite(self.name, scores, pairs)
        return scores


def _distinct(pairs: Sequence[Pair]) -> tuple[list[Pair], list[int]]:
    """The different pairs, and the place of each of `pairs` among them."""
    slots: dict[Pair, int] = {}
    back = [slots.setdefault(pair, len(slots)) for pair in pairs]
    return list(slots), back
