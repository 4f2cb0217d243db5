"""Exported models that read query and passage apart: embeddings, weights of terms."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dear.checkpoints.contract import DType, fingerprint_of
from dear.records import PairRead
from dear.scoring.batching import Progress, require_finite
from dear.scoring.dual import DualScorer, Vector, compared
from dear.scoring.encoding import Encoded, Pair, encode_texts
from dear.scoring.exported import ExportedGraph, load_graph
from dear.scoring.queue import Scored


class ExportedBiEncoder:
    """Similarity of two embeddings; the twin of BiEncoder, whose contract it carries."""

    def __init__(
        self,
        name: str | Path,
        *,
        dtype: DType = "auto",
        device: str = "auto",
        batch_tokens: int | None = None,
    ) -> None:
        self.graph: ExportedGraph = load_graph(name, dtype=dtype, device=device)
        self.contract: dict[str, Any] = dict(self.graph.encoder)
        self.name, self.revision = str(name), self.graph.revision
        self.parameters = self.graph.parameters
        self.max_tokens = int(self.contract["max_tokens"])
        self.engine = self.graph.open_engine(batch_tokens, longest=self.max_tokens)
        self.computing = {"engine": self.graph.runtime, "precision": self.engine.precision}
        self.fingerprint = fingerprint_of({**self.contract, **self.computing})
        self.similarity = str(self.contract.get("similarity", "cosine"))
        self.query_prompt = str(self.contract["query_prompt"])
        self.passage_prompt = str(self.contract["passage_prompt"])
        self.dual = DualScorer[Vector](
            encode=self.encode,
            represent=self._embed,
            compare=partial(compared, self.similarity),
            query_prompt=self.query_prompt,
            passage_prompt=self.passage_prompt,
        )

    def prepare(self, pairs: Sequence[Pair], progress: Progress | None = None) -> None:
        """Embed every text of `pairs` and keep it; see `DualScorer.prepare`."""
        self.dual.prepare(pairs, progress)

    def score(self, pairs: Sequence[Pair], progress: Progress | None = None) -> NDArray[np.float32]:
        """float32 (n,) similarities."""
        return self.score_read(pairs, progress).scores

    def score_read(self, pairs: Sequence[Pair], progress: Progress | None = None) -> Scored:
        """The same, with what was read of each pair; see `DualScorer.score_read`."""
        found = self.dual.score_read(pairs, progress)
        require_finite(self.name, found.scores, pairs)
        return found

    def cut_pairs(self, pairs: Sequence[Pair]) -> list[bool]:
        """Which pairs have a passage that is longer than the model reads it."""
        return self.dual.cut_pairs(pairs)

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """One Encoded a text, prompts included."""
        return encode_texts(self.graph.tokenizer, texts, self.max_tokens)

    def encode_queries(
        self, texts: Sequence[str], progress: Progress | None = None
    ) -> NDArray[np.float32]:
        """float32 (n, dimensions) embeddings of queries, of length 1 under cosine."""
        prompted = [self.query_prompt + text for text in texts]
        return self._embed(prompted, self.encode(prompted), progress, None)

    def encode_passages(
        self, texts: Sequence[str], progress: Progress | None = None
    ) -> NDArray[np.float32]:
        """The same of passages."""
        prompted = [self.passage_prompt + text for text in texts]
        return self._embed(prompted, self.encode(prompted), progress, None)

    def _embed(
        self,
        texts: Sequence[str],
        encoded: Sequence[Encoded],
        progress: Progress | None,
        total: int | None,
    ) -> NDArray[np.float32]:
        if not texts:
            return np.empty((0, int(self.graph.encoder["dimensions"])), dtype=np.float32)
        return self.engine.run(encoded, progress, total)


class ExportedSplade:
    """Dot products of term weights; the twin of Splade, whose contract it carries.

    Its graph gives the weights of those terms alone that are asked for: of a passage, those that
    its query has, a hundred of thirty thousand.
    """

    def __init__(
        self,
        name: str | Path,
        *,
        dtype: DType = "auto",
        device: str = "auto",
        batch_tokens: int | None = None,
    ) -> None:
        self.graph: ExportedGraph = load_graph(name, dtype=dtype, device=device)
        self.contract: dict[str, Any] = dict(self.graph.encoder)
        self.name, self.revision = str(name), self.graph.revision
        self.parameters = self.graph.parameters
        self.vocabulary = int(self.contract["vocabulary"])
        self.query_prompt = str(self.contract["query_prompt"])
        self.passage_prompt = str(self.contract["passage_prompt"])
        self.max_tokens = int(self.contract["max_tokens"])
        self.engine = self.graph.open_engine(batch_tokens, longest=self.max_tokens)
        self.computing = {"engine": self.graph.runtime, "precision": self.engine.precision}
        self.fingerprint = fingerprint_of({**self.contract, **self.computing})

    def score(self, pairs: Sequence[Pair], progress: Progress | None = None) -> NDArray[np.float32]:
        """float32 (n,) dot products; each query, and each passage of a query, is weighed once."""
        return self.score_read(pairs, progress).scores

    def score_read(self, pairs: Sequence[Pair], progress: Progress | None = None) -> Scored:
        """The same, with what was read of each pair."""
        if not pairs:
            return Scored(scores=np.empty(0, dtype=np.float32))
        queries = self._encoded(self.query_prompt, [query for query, _ in pairs])
        passages = self._encoded(self.passage_prompt, [text for _, text in pairs])
        of_query: dict[str, list[int]] = {}
        for at, (query, _) in enumerate(pairs):
            of_query.setdefault(query, []).append(at)
        scores = np.empty(len(pairs), dtype=np.float32)
        done = 0
        for query, places in of_query.items():
            texts = dict.fromkeys(pairs[at][1] for at in places)
            found = self._products(queries[query], [passages[text] for text in texts])
            by_text = dict(zip(texts, found, strict=True))
            scores[places] = [by_text[pairs[at][1]] for at in places]
            done += len(places)
            if progress is not None:
                progress(done, len(pairs))
        require_finite(self.name, scores, pairs)
        read = [
            PairRead(len(queries[query]) + len(passages[passage]), passages[passage].cut)
            for query, passage in pairs
        ]
        return Scored(scores=scores, read=read)

    def _products(self, query: Encoded, passages: Sequence[Encoded]) -> NDArray[np.float32]:
        """float32 (n,): of one query with each passage."""
        every = np.arange(self.vocabulary, dtype=np.int64)
        asked = self.engine.run([query], more={"terms": every})[0]
        terms = np.flatnonzero(asked)
        if not len(terms):
            return np.zeros(len(passages), dtype=np.float32)
        weights = self.engine.run(passages, more={"terms": terms})
        return np.asarray(weights @ asked[terms], dtype=np.float32)

    def cut_pairs(self, pairs: Sequence[Pair]) -> list[bool]:
        """Which pairs have a passage that is longer than the model reads it."""
        found = self._encoded(self.passage_prompt, [text for _, text in pairs])
        return [found[passage].cut for _, passage in pairs]

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """One Encoded a text, prompts included."""
        return encode_texts(self.graph.tokenizer, texts, self.max_tokens)

    def _encoded(self, prompt: str, texts: Sequence[str]) -> dict[str, Encoded]:
        """Each different text, without its prompt, and its tokens with it."""
        different = list(dict.fromkeys(texts))
        tokens = self.encode([prompt + text for text in different])
        return dict(zip(different, tokens, strict=True))


ENCODERS: dict[str, type[ExportedBiEncoder] | type[ExportedSplade]] = {
    "biencoder": ExportedBiEncoder,
    "splade": ExportedSplade,
}
"""Kind of an export → what scores with it."""
