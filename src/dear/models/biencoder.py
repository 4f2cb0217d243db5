"""A bi-encoder read as a reranker: the similarity of two embeddings."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dear.errors import ConfigError, DataError
from dear.models.batching import Progress, collate, in_batches, pick_batch_tokens, require_finite
from dear.models.contract import DType, fingerprint_of
from dear.models.encoding import Encoded, Pair
from dear.models.family import Source
from dear.models.files import model_file, model_json
from dear.models.loading import count_parameters, load_reader

MAX_TOKENS = 256
"""Where a text is cut if its folder does not say."""

KEPT_TEXTS = 100_000
"""Embeddings that `score` keeps for texts to come; `prepare` keeps as many as it is given."""

_POOLINGS = {"cls": "cls", "mean": "mean", "lasttoken": "last"}
_OLD_POOLINGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "lasttoken",
}


class BiEncoder:
    """Cosine similarity of mean-, first- or last-token-pooled embeddings, in [-1, 1].

    Pooling, prompts and length are read from the files that sentence-transformers writes
    (`modules.json`, `1_Pooling/config.json`, `sentence_bert_config.json`,
    `config_sentence_transformers.json`); mean pooling and 256 tokens where there are none.
    ConfigError for a model with a module that is not read here, such as a dense layer.
    """

    kind = "biencoder"

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
        from transformers import AutoModel

        reader = load_reader(name, AutoModel, dtype=dtype, device=device, revision=revision)
        self.name = f"{self.kind}:{name}"
        self.revision = reader.revision
        self.model, self.tokenizer, self.device = reader.model, reader.tokenizer, reader.device
        self.parameters = count_parameters(self.model)
        self.batch_tokens = pick_batch_tokens(batch_tokens, self.device)
        self.pooling = _pooling(reader.source)
        self.max_tokens = _max_tokens(reader.source, self.tokenizer, self.model.config)
        prompts = model_json(reader.source, "config_sentence_transformers.json").get("prompts")
        self.query_prompt = _prompt(prompts, "query")
        self.passage_prompt = _prompt(prompts, "document", "passage", "corpus")
        self.contract = {
            "kind": self.kind,
            "pooling": self.pooling,
            "max_tokens": self.max_tokens,
            "query_prompt": self.query_prompt,
            "passage_prompt": self.passage_prompt,
            "dtype": reader.dtype,
        }
        self.fingerprint = fingerprint_of(self.contract)
        self._known: dict[str, NDArray[np.float32]] = {}
        self._keep = KEPT_TEXTS
        self.tokens_scored = 0

    def prepare(self, pairs: Sequence[Pair], progress: Progress | None = None) -> None:
        """Embed every text of `pairs` and keep it, so that each is embedded once.

        A labelling job calls this with all its pairs, done or not: batches, and so the last bits
        of every score, are the same when a killed job goes on. progress counts texts.
        """
        new = self._new(pairs)
        self._known.update(zip(new, self.embed(new, progress), strict=True))
        self._keep = max(self._keep, len(self._known))

    def score(self, pairs: Sequence[Pair], progress: Progress | None = None) -> NDArray[np.float32]:
        """float32 (n,) cosine similarities."""
        if not pairs:
            return np.empty(0, dtype=np.float32)
        new = self._new(pairs)
        self._known.update(zip(new, self.embed(new, progress, len(pairs)), strict=True))
        if not new and progress is not None:
            progress(len(pairs), len(pairs))
        scores = np.array(
            [
                self._known[self.query_prompt + query] @ self._known[self.passage_prompt + passage]
                for query, passage in pairs
            ],
            dtype=np.float32,
        )
        if len(self._known) > self._keep:
            self._known.clear()  # a server must not grow for ever
        require_finite(self.name, scores, pairs)
        return scores

    def _new(self, pairs: Sequence[Pair]) -> list[str]:
        texts = dict.fromkeys(
            text for q, p in pairs for text in (self.query_prompt + q, self.passage_prompt + p)
        )
        return [text for text in texts if text not in self._known]

    def embed(
        self, texts: Sequence[str], progress: Progress | None = None, total: int | None = None
    ) -> NDArray[np.float32]:
        """float32 (n, hidden) embeddings of length 1, in the order given.

        progress: called in proportion to `total`, the number of texts where None.
        """
        if not texts:
            return np.empty((0, self.model.config.get_text_config().hidden_size), dtype=np.float32)
        encoded = self.encode(texts)
        self.tokens_scored += sum(map(len, encoded))
        return in_batches(encoded, self.batch_tokens, self._forward, progress, total)

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """One Encoded a text; one pad token for a text of which nothing is left."""
        batch = self.tokenizer(
            list(texts), truncation=True, max_length=self.max_tokens, return_attention_mask=False
        )
        rows = (list(ids) or [self.tokenizer.pad_token_id] for ids in batch["input_ids"])
        return [Encoded(ids, [0] * len(ids)) for ids in rows]

    def pooled(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """float32 (B, hidden), normalised; padding on the right."""
        hidden = self.model(input_ids=ids, attention_mask=mask).last_hidden_state.float()
        if self.pooling == "cls":
            vectors = hidden[:, 0]
        elif self.pooling == "last":
            rows = torch.arange(len(ids), device=ids.device)
            vectors = hidden[rows, (mask.sum(-1) - 1).clamp(min=0)]
        else:
            weights = mask.unsqueeze(-1).float()
            vectors = (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)
        return torch.nn.functional.normalize(vectors, dim=-1)

    def _forward(self, encoded: Sequence[Encoded]) -> NDArray[np.float32]:
        ids, mask, _ = collate(encoded, pad_id=self.tokenizer.pad_token_id)
        with torch.inference_mode():
            vectors = self.pooled(ids.to(self.device), mask.to(self.device))
        return vectors.cpu().numpy()


def _pooling(source: Source) -> str:
    """How sentence-transformers pools this model: mean, cls or last."""
    folder = "1_Pooling"
    for module in _modules(source):
        kind = str(module.get("type", "")).rsplit(".", 1)[-1]
        if kind not in ("Transformer", "Pooling", "Normalize"):
            raise ConfigError(f"{source.name}: a {kind} module is not supported")
        if kind == "Pooling":
            folder = module.get("path", folder)
    config = model_json(source, f"{folder}/config.json")
    if not config:
        return "mean"
    mode = config.get("pooling_mode")
    if mode is None:
        on = [key for key in config if key.startswith("pooling_mode_") and config[key]]
        mode = _OLD_POOLINGS.get(on[0]) if len(on) == 1 else on
    if not isinstance(mode, str) or mode not in _POOLINGS:
        raise ConfigError(f"{source.name}: pooling {mode!r} is not mean, cls or lasttoken")
    if not config.get("include_prompt", True):
        raise ConfigError(f"{source.name}: pooling without the prompt is not supported")
    return _POOLINGS[mode]


def _modules(source: Source) -> list[dict[str, Any]]:
    path = model_file(source, "modules.json")
    if path is None:
        return []
    try:
        modules = json.loads(path.read_bytes())
    except ValueError as error:
        raise DataError.at(path, None, f"not JSON: {error}") from None
    if not isinstance(modules, list) or not all(isinstance(m, dict) for m in modules):
        raise DataError.at(path, None, "not a list of JSON objects")
    return modules


def _max_tokens(source: Source, tokenizer: Any, config: Any) -> int:
    """max_seq_length where it is stored; else, as newer files mean it, the tokenizer's limit."""
    stored = model_json(source, "sentence_bert_config.json")
    if stored.get("max_seq_length"):
        return int(stored["max_seq_length"])
    if not stored:
        return MAX_TOKENS
    positions = getattr(config.get_text_config(), "max_position_embeddings", MAX_TOKENS)
    return int(min(tokenizer.model_max_length, positions))


def _prompt(prompts: Any, *names: str) -> str:
    known = prompts if isinstance(prompts, dict) else {}
    return next((known[name] for name in names if known.get(name)), "")
