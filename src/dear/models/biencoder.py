"""A bi-encoder read as a reranker: the similarity of two embeddings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dear.errors import ConfigError, DataError
from dear.models.contract import DType
from dear.models.encoding import Encoded, Pair
from dear.models.family import Source, locate
from dear.models.loading import (
    load_tokenizer,
    pick_attention,
    pick_device,
    pick_dtype,
    reading,
    revision_of,
)
from dear.models.scorer import Progress, collate, default_batch_tokens, token_batches

MAX_TOKENS = 256
"""Where a text is cut if its folder does not say."""


class BiEncoder:
    """Cosine similarity of mean- or first-token-pooled embeddings, in [-1, 1].

    Pooling, prompts and length are read from the files that sentence-transformers writes
    (`modules.json`, `1_Pooling/config.json`, `sentence_bert_config.json`,
    `config_sentence_transformers.json`); mean pooling and 256 tokens where there are none.
    """

    kind = "biencoder"

    def __init__(
        self,
        name: str | Path,
        *,
        dtype: DType = "auto",
        device: str = "auto",
        batch_tokens: int | None = None,
    ) -> None:
        from transformers import AutoModel

        source = locate(name)
        self.device = pick_device(device)
        self.dtype = pick_dtype(dtype, self.device)
        self.tokenizer = load_tokenizer(source)
        with reading(source.path):
            self.model = AutoModel.from_pretrained(
                source.path,
                revision=source.revision,
                dtype=getattr(torch, self.dtype),
                attn_implementation=pick_attention(),
                trust_remote_code=False,
            )
        self.model.to(self.device).eval()
        self.name = f"{self.kind}:{name}"
        self.revision = revision_of(source, self.model)
        settings = _settings(source)
        self.pooling: str = settings["pooling"]
        self.max_tokens: int = settings["max_tokens"]
        self.query_prompt: str = settings["query_prompt"]
        self.passage_prompt: str = settings["passage_prompt"]
        self.batch_tokens = batch_tokens or default_batch_tokens(self.device)
        self._known: dict[str, NDArray[np.float32]] = {}

    @property
    def contract(self) -> dict[str, Any]:
        """How texts become embeddings: what a label file is stamped with."""
        return {
            "kind": self.kind,
            "pooling": self.pooling,
            "max_tokens": self.max_tokens,
            "query_prompt": self.query_prompt,
            "passage_prompt": self.passage_prompt,
            "dtype": self.dtype,
        }

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(json.dumps(self.contract, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.model.parameters())

    def prepare(self, pairs: Sequence[Pair], progress: Progress | None = None) -> None:
        """Embed every text of `pairs` and keep it, so that each is embedded once.

        A labelling job calls this with all its pairs, done or not: batches, and so the last bits
        of every score, are the same when a killed job goes on.
        """
        texts = dict.fromkeys(
            text for q, p in pairs for text in (self.query_prompt + q, self.passage_prompt + p)
        )
        new = [text for text in texts if text not in self._known]
        for text, vector in zip(new, self.embed(new, progress), strict=True):
            self._known[text] = vector

    def score(self, pairs: Sequence[Pair], progress: Progress | None = None) -> NDArray[np.float32]:
        """float32 (n,) cosine similarities."""
        self.prepare(pairs, progress)
        scores = np.empty(len(pairs), dtype=np.float32)
        for i, (query, passage) in enumerate(pairs):
            a = self._known[self.query_prompt + query]
            b = self._known[self.passage_prompt + passage]
            scores[i] = float(a @ b)
        return scores

    def embed(self, texts: Sequence[str], progress: Progress | None = None) -> NDArray[np.float32]:
        """float32 (n, hidden) embeddings of length 1, in the order given."""
        if not texts:
            return np.zeros((0, self.model.config.hidden_size), dtype=np.float32)
        encoded = self.encode(texts)
        out = np.empty((len(texts), self.model.config.hidden_size), dtype=np.float32)
        done = 0
        for batch in token_batches([len(e) for e in encoded], self.batch_tokens):
            ids, mask, types = collate(
                [encoded[i] for i in batch], pad_id=self.tokenizer.pad_token_id
            )
            with torch.inference_mode():
                vectors = self.pooled(ids.to(self.device), mask.to(self.device), types)
            out[batch] = vectors.cpu().numpy()
            done += len(batch)
            if progress is not None:
                progress(done, len(texts))
        return out

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        batch = self.tokenizer(
            list(texts), truncation=True, max_length=self.max_tokens, return_attention_mask=False
        )
        return [Encoded(list(ids), [0] * len(ids)) for ids in batch["input_ids"]]

    def pooled(
        self, ids: torch.Tensor, mask: torch.Tensor, _types: torch.Tensor | None = None
    ) -> torch.Tensor:
        """float32 (B, hidden), normalised."""
        hidden = self.model(input_ids=ids, attention_mask=mask).last_hidden_state.float()
        if self.pooling == "cls":
            vectors = hidden[:, 0]
        elif self.pooling == "last":
            last = (mask * torch.arange(mask.shape[1], device=mask.device)).argmax(-1)
            vectors = hidden[torch.arange(len(last), device=last.device), last]
        else:
            weights = mask.unsqueeze(-1).float()
            vectors = (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)
        return torch.nn.functional.normalize(vectors, dim=-1)


def _settings(source: Source) -> dict[str, Any]:
    """Pooling, length and prompts as sentence-transformers stored them."""
    pooling = _json(source, "1_Pooling/config.json")
    length = _json(source, "sentence_bert_config.json")
    prompts = _json(source, "config_sentence_transformers.json").get("prompts") or {}
    mode = pooling.get("pooling_mode")
    if mode is None:
        known = {
            "pooling_mode_cls_token": "cls",
            "pooling_mode_lasttoken": "lasttoken",
            "pooling_mode_mean_tokens": "mean",
        }
        mode = next((v for k, v in known.items() if pooling.get(k)), "mean" if not pooling else "?")
    names = {"cls": "cls", "mean": "mean", "lasttoken": "last"}
    if mode not in names:
        raise ConfigError(f"{source.path}: pooling {mode!r} is not mean, cls or lasttoken")
    return {
        "pooling": names[mode],
        "max_tokens": length.get("max_seq_length") or MAX_TOKENS,
        "query_prompt": prompts.get("query", ""),
        "passage_prompt": prompts.get("document", prompts.get("passage", "")),
    }


def _json(source: Source, name: str) -> dict[str, Any]:
    from dear.models.loading import hub_file

    path = source.folder / name if source.folder else hub_file(source, name)
    if path is None or not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError.at(path, None, f"not JSON: {error}") from None
    return value if isinstance(value, dict) else {}
