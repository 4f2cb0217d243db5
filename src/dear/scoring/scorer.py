"""Pairs to scores: each different pair once, in the caller's order."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dear import scoring
from dear.checkpoints.contract import ScoringContract, fingerprint_of
from dear.checkpoints.processor import trim_heap
from dear.errors import ConfigError, nearest
from dear.records import PairRead
from dear.scoring.batching import (
    ANY_SHAPE,
    Progress,
    ahead,
    chunk_pairs,
    in_chunks,
    pick_batch_tokens,
    require_finite,
    token_batches,
)
from dear.scoring.budget import load_batch_tokens, probe_batch_tokens, remember_batch_tokens
from dear.scoring.encoding import Encoded, Pair, PairEncoder
from dear.scoring.engines import Engine, EngineName
from dear.scoring.exported import ExportedModel

if TYPE_CHECKING:
    from dear.scoring.explaining import Explanation
    from dear.scoring.loading import ScoringModel

TRIM_PAIRS = 512
"""Pairs after which freed memory is given back: takes milliseconds, and a chunk of 8,192 short
pairs would leave 300 MiB of holes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """A request for scores, encoded.

    pairs: the different ones.  back: the place of each pair that was asked for among them.
    """

    pairs: Sequence[Pair]
    back: Sequence[int]
    encoded: list[Encoded]

    @property
    def tokens(self) -> int:
        return sum(map(len, self.encoded))

    @property
    def read(self) -> list[PairRead]:
        """Of each pair that was asked for."""
        read = [PairRead(len(one), one.cut) for one in self.encoded]
        return [read[i] for i in self.back]


class Scorer:
    """Scores pairs with a one-logit model.

    A score is that of the pair alone: it depends on neither its neighbours, nor the order, nor
    the padding, to the rounding of the dtype.

    batch_tokens: padded tokens in a batch. None: what `tune` once found for this machine and
        model, else a default for the device.
    engine: one of ENGINES by name; "auto" is the one that suits model and device. ConfigError for
        one that this model cannot go through.
    tokens_scored: of all sequences that were scored so far, padding left out; by all threads.

    Threads may share it (dear.checkpoints.threads).
    """

    def __init__(
        self,
        model: ScoringModel | ExportedModel,
        *,
        batch_tokens: int | None = None,
        engine: EngineName = "auto",
    ) -> None:
        self.model = model
        self.tokens_scored = 0
        self._untrimmed = 0
        self._counting = threading.Lock()
        self._engine_name = self._pick_engine(engine)
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
        return scoring.engines.table.ENGINES[self._engine_name](self.model, batch_tokens)

    def _pick_engine(self, name: EngineName) -> str:
        """Tried out on the loaded model, so that no engine changes its scores."""
        if isinstance(self.model, ExportedModel):
            if name != "auto":
                raise ConfigError(f"{self.model.name}: an export has an engine of its own")
            return "export"
        engines, fits = scoring.engines.table.ENGINES, scoring.engines.table.FITS
        if name == "auto":
            # a decoder's shared queries save more than padding costs; unpadded batches were
            # measured to be no faster on a CPU (benchmarks/inside.py)
            on_gpu = self.model.device.type == "cuda"
            wanted = ("prefix", "packed") if on_gpu else ("prefix",)
            return next((n for n in wanted if fits[n](self.model)), "padded")
        if name not in engines:
            raise ConfigError(f"no engine {name!r}{nearest(name, engines)}")
        if not fits[name](self.model):
            raise ConfigError(f"{self.model.name}: the engine {name!r} would change its scores")
        return name

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
    def tokens_padded(self) -> int | None:
        """The same with padding, by this engine; None for engines that do not count it."""
        return getattr(self.engine, "tokens_padded", None)

    @property
    def name(self) -> str:
        return self.model.name

    @property
    def revision(self) -> str:
        return self.model.revision

    @property
    def contract(self) -> ScoringContract:
        """With the dtype in force: an export says bfloat16, and a processor may have none."""
        contract = self.model.contract
        if contract.dtype == "bfloat16" and self.computing.get("precision", "bf16") != "bf16":
            return contract.with_dtype("float32")
        return contract

    @property
    def computing(self) -> dict[str, str]:
        """What else of an export's computing its scores depend on; nothing for a checkpoint, whose
        engines all give its scores."""
        precision = getattr(self.engine, "precision", None)
        if precision is None or not isinstance(self.model, ExportedModel):
            return {}
        return {"engine": self.model.runtime, "precision": precision}

    @property
    def engine_name(self) -> str:
        """A key of ENGINES, or "export"."""
        return self._engine_name

    @property
    def fingerprint(self) -> str:
        return fingerprint_of({**self.contract.to_dict(), **self.computing})

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

    def prepare(self, pairs: Sequence[Pair]) -> Prepared:
        """The pairs, encoded, for `score_pieces`."""
        unique, back = _distinct(pairs)
        return Prepared(pairs=unique, back=back, encoded=self.encoder.encode(unique))

    @property
    def turn_tokens(self) -> int:
        """Tokens that are computed between two looks at who waits: a batch for each stream."""
        return self.batch_tokens * getattr(self.engine, "streams", 1)

    def pieces(self, prepared: Prepared, *, in_order: bool) -> list[list[int]]:
        """Its sequences by position, in the batches that they have alone; those of a small request
        at once. in_order: as they were given."""
        lengths = [len(one) for one in prepared.encoded]
        if sum(lengths) <= self.turn_tokens:
            return [list(range(len(lengths)))]
        if not in_order:
            grid = getattr(self.engine, "grid", ANY_SHAPE)
            return token_batches(lengths, self.turn_tokens, grid)
        found: list[list[int]] = []
        room = 0
        for at, length in enumerate(lengths):
            if length > room:
                found.append([])
                room = self.turn_tokens
            found[-1].append(at)
            room -= length
        return found

    def score_pieces(
        self, pieces: Sequence[tuple[Prepared, Sequence[int]]]
    ) -> list[NDArray[np.float32]]:
        """Scores of some of each request's sequences, computed together."""
        pairs = [request.pairs[i] for request, piece in pieces for i in piece]
        encoded = [request.encoded[i] for request, piece in pieces for i in piece]
        scores = self._run(pairs, encoded)
        return np.split(scores, np.cumsum([len(piece) for _, piece in pieces])[:-1])

    def cut_pairs(self, pairs: Sequence[Pair]) -> list[bool]:
        """Which pairs are longer than the model reads them."""
        return [one.cut for one in self.encoder.encode(pairs)]

    def explain(self, query: str, passage: str) -> Explanation:
        """How one pair's score comes about: tokens and what was cut, the position that is read,
        contract, engine, logit, and the logit of the plain forward pass beside it."""
        return scoring.explaining.explain(self, query, passage)

    def stream(self, pairs: Iterable[Pair], *, chunk: int | None = None) -> Iterator[float]:
        """Scores of any number of pairs, one by one and in order, two chunks held at once.

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
        before = 0

        def report(done: int, total: int) -> None:
            nonlocal before
            with self._counting:
                self._untrimmed += done - before
                full = self._untrimmed >= TRIM_PAIRS
                self._untrimmed = 0 if full else self._untrimmed
            before = done
            if full:
                trim_heap()
            if progress is not None:
                progress(done, total)

        scores = self.engine.run(encoded, report)
        with self._counting:
            self.tokens_scored += sum(map(len, encoded))
        require_finite(self.name, scores, pairs)
        return scores


def _distinct(pairs: Sequence[Pair]) -> tuple[list[Pair], list[int]]:
    """The different pairs, and the place of each of `pairs` among them."""
    slots: dict[Pair, int] = {}
    back = [slots.setdefault(pair, len(slots)) for pair in pairs]
    return list(slots), back
