"""SPLADE read as a reranker: the dot product of two sparse vectors over the vocabulary.

A masked language model weighs every term of its vocabulary for a text: the maximum over tokens of
log(1 + ReLU(logit)) (Formal et al. 2021, arXiv 2109.10086).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from transformers import AutoModelForMaskedLM

from dear.checkpoints.contract import DType, fingerprint_of
from dear.checkpoints.files import model_json
from dear.checkpoints.layers import own_length
from dear.checkpoints.registry import Source, locate
from dear.checkpoints.sentence_transformers import (
    modules_of,
    stored_prompt,
    transformer_entry,
    transformer_settings,
    transformer_source,
)
from dear.checkpoints.threads import exclusive
from dear.checkpoints.tokenizer import lower_cased
from dear.errors import BackendError, ConfigError, excerpt, nearest
from dear.notices import say
from dear.scoring.batching import (
    ANY_SHAPE,
    ONE_LENGTH,
    Progress,
    pick_batch_tokens,
    token_batches,
)
from dear.scoring.biencoder import MAX_TOKENS
from dear.scoring.company import LONG, READ_PADDING, SHORT, depends_on_company, tell
from dear.scoring.dual import DualScorer
from dear.scoring.encoding import Encoded, Pair, encode_texts
from dear.scoring.loading import count_parameters, load_reader
from dear.scoring.queue import Scored
from dear.scoring.tensors import collate

LOGITS = {"cpu": 1 << 23, "cuda": 1 << 29}
"""Logits of a batch by device: every token has one for each term. Those of 256 tokens just fit into
a CPU's cache, and more of them take longer."""

POOLINGS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    # log1p and ReLU never fall: the largest logit has the largest weight
    "max": lambda logits: torch.log1p(torch.relu(logits.amax(0).float())),
    "sum": lambda logits: torch.log1p(torch.relu(logits.float())).sum(0),
}
"""Pooling strategy → the weights of a text's terms, (tokens, terms) to (terms,)."""

Terms: TypeAlias = tuple[NDArray[np.int32], NDArray[np.float32]]
"""The terms of a text, rising, and their weights above 0."""

Matrix: TypeAlias = sparse.csr_matrix
"""float32 (texts, terms)."""


class Splade:
    """Dot products of term weights: 0 or more, higher is better.

    Pooling, prompts and length are read from the files that sentence-transformers writes; the
    maximum, no prompts and at most 256 tokens where nothing is said. Queries and passages are
    weighed alike. ConfigError for modules other than a masked language model and its pooling,
    such as those of encoders that look a query's weights up.
    """

    kind = "splade"

    def __init__(
        self,
        name: str | Path,
        *,
        dtype: DType = "auto",
        device: str = "auto",
        batch_tokens: int | None = None,
        revision: str | None = None,
        instruction: str | None = None,
    ) -> None:
        if instruction is not None:
            raise ConfigError(f"{self.kind}:{name}: it takes no instruction")
        source = locate(name, revision=revision)
        self.pooling = _pooling_of(source)
        entry = transformer_entry(source)
        reader = load_reader(
            transformer_source(source, entry),
            AutoModelForMaskedLM,
            dtype=dtype,
            device=device,
            stamped=source,
        )
        self.name = f"{self.kind}:{name}"
        self.revision = reader.revision
        self.model, self.tokenizer, self.device = reader.model, reader.tokenizer, reader.device
        self.parameters = count_parameters(self.model)
        self.vocabulary = int(self.model.config.get_text_config().vocab_size)
        settings = transformer_settings(source, entry)
        if settings.get("do_lower_case"):
            self.tokenizer = lower_cased(self.tokenizer)
        self.max_tokens = own_length(source, self.tokenizer, self.model.config, entry=entry)
        if not settings:
            self.max_tokens = min(self.max_tokens, MAX_TOKENS)
        self.query_prompt = stored_prompt(source, "query")
        self.passage_prompt = stored_prompt(source, "document", "passage", "corpus")
        most = LOGITS["cpu" if self.device.type == "cpu" else "cuda"] // self.vocabulary
        self.batch_tokens = min(pick_batch_tokens(batch_tokens, self.device), max(1, most))
        self.contract = {
            "kind": self.kind,
            "pooling": self.pooling,
            "max_tokens": self.max_tokens,
            "query_prompt": self.query_prompt,
            "passage_prompt": self.passage_prompt,
            "dtype": reader.dtype,
        }
        self.fingerprint = fingerprint_of(self.contract)
        self._grid = ANY_SHAPE
        if self.model.config.model_type in READ_PADDING or depends_on_company(
            lambda texts: self._weights(texts).cpu().numpy(),
            self.encode([SHORT, LONG]),
            exact=reader.dtype == "float32",
        ):
            self._grid = ONE_LENGTH
            tell(self.name)
        self.dual = DualScorer[Terms](
            encode=self.encode,
            represent=self._terms,
            compare=self._compare,
            query_prompt=self.query_prompt,
            passage_prompt=self.passage_prompt,
        )
        self.tokens_scored = 0
        self._counting = threading.Lock()
        say(
            f"{self.name}: dot product of {self.pooling}-pooled weights of {self.vocabulary:,} "
            f"terms, {self.max_tokens:,} tokens"
        )

    def prepare(self, pairs: Sequence[Pair], progress: Progress | None = None) -> None:
        """Weigh every text of `pairs` and keep its terms; see `DualScorer.prepare`."""
        self.dual.prepare(pairs, progress)

    def score(self, pairs: Sequence[Pair], progress: Progress | None = None) -> NDArray[np.float32]:
        """float32 (n,) dot products; each text of the call is weighed once, those that were
        prepared not at all."""
        return self.score_read(pairs, progress).scores

    def score_read(self, pairs: Sequence[Pair], progress: Progress | None = None) -> Scored:
        """The same, with what was read of each pair; see `DualScorer.score_read`."""
        return self.dual.score_read(pairs, progress)

    def _compare(self, queries: Sequence[Terms], passages: Sequence[Terms]) -> NDArray[np.float32]:
        a, b = as_matrix(queries, self.vocabulary), as_matrix(passages, self.vocabulary)
        return np.asarray(a.multiply(b).sum(axis=1), dtype=np.float32).ravel()

    def encode_queries(self, texts: Sequence[str], progress: Progress | None = None) -> Matrix:
        """Term weights of queries, in the order given."""
        return self._matrix(self.query_prompt, texts, progress)

    def encode_passages(self, texts: Sequence[str], progress: Progress | None = None) -> Matrix:
        """Term weights of passages, in the order given."""
        return self._matrix(self.passage_prompt, texts, progress)

    def _matrix(self, prompt: str, texts: Sequence[str], progress: Progress | None) -> Matrix:
        prompted = [prompt + text for text in texts]
        terms = self._terms(prompted, self.encode(prompted), progress)
        return as_matrix(terms, self.vocabulary)

    def _terms(
        self,
        texts: Sequence[str],
        encoded: Sequence[Encoded],
        progress: Progress | None = None,
        total: int | None = None,
    ) -> list[Terms]:
        """progress: called in proportion to `total`, the number of texts where None."""
        with self._counting:
            self.tokens_scored += sum(map(len, encoded))
        total = len(texts) if total is None else total
        found: dict[int, Terms] = {}
        for batch in token_batches([len(one) for one in encoded], self.batch_tokens, self._grid):
            weights = self._weights([encoded[i] for i in batch]).cpu().numpy()
            for i, row in zip(batch, weights, strict=True):
                if not np.isfinite(row).all():
                    problem = f"a weight of {excerpt(texts[i])} is not finite; try dtype float32"
                    raise BackendError(f"{self.name}: {problem}")
                terms = np.flatnonzero(row)
                found[i] = terms.astype(np.int32), row[terms]
            if progress is not None:
                progress(len(found) * total // len(texts), total)
        return [found[i] for i in range(len(texts))]

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """One Encoded a text, prompts included."""
        return encode_texts(self.tokenizer, texts, self.max_tokens)

    def _weights(self, encoded: Sequence[Encoded]) -> torch.Tensor:
        """float32 (B, terms); padding has no part in it."""
        ids, mask, _ = collate(encoded, pad_id=self.tokenizer.pad_token_id)
        pool = POOLINGS[self.pooling]
        with exclusive(self.model), torch.inference_mode():
            output = self.model(input_ids=ids.to(self.device), attention_mask=mask.to(self.device))
            rows = zip(output.logits, encoded, strict=True)
            return torch.stack([pool(logits[: len(one)]) for logits, one in rows])


def as_matrix(rows: Sequence[Terms], vocabulary: int) -> Matrix:
    """The terms of several texts as one matrix."""
    ends = np.cumsum([0, *(len(terms) for terms, _ in rows)])
    terms = np.concatenate([np.empty(0, np.int32), *(terms for terms, _ in rows)])
    weights = np.concatenate([np.empty(0, np.float32), *(weights for _, weights in rows)])
    return sparse.csr_matrix((weights, terms, ends), shape=(len(rows), vocabulary))


def _pooling_of(source: Source) -> str:
    modules = modules_of(source)
    strange = {entry.kind for entry in modules} - {"Transformer", "MLMTransformer", "SpladePooling"}
    if strange:
        raise ConfigError(
            f"splade:{source.name}: modules that are not read here: {', '.join(sorted(strange))}"
        )
    entry = next((entry for entry in modules if entry.kind == "SpladePooling"), None)
    config = {} if entry is None else model_json(source, entry.file("config.json"))
    pooling = str(config.get("pooling_strategy", "max"))
    if pooling not in POOLINGS:
        raise ConfigError(
            f"splade:{source.name}: no pooling {pooling!r}{nearest(pooling, POOLINGS)}"
        )
    activation = config.get("activation_function", "relu")
    if activation != "relu":
        raise ConfigError(f"splade:{source.name}: the activation {activation!r} is not read here")
    return pooling
