"""Module stacks that only sentence-transformers itself computes: static embeddings, routers, …

Where `dear.checkpoints.sentence_transformers_modules` does not read a module, the library is
asked, if it is installed. Its batches and its speed are its own.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dear.checkpoints.contract import DType, fingerprint_of
from dear.checkpoints.files import quiet, reading, revision_of
from dear.checkpoints.hardware import pick_device, pick_dtype
from dear.checkpoints.registry import Source, locate
from dear.checkpoints.screening import Held, within
from dear.checkpoints.sentence_transformers import (
    SETTINGS,
    activation_of,
    cross_encoder_evidence,
    modules_of,
    takes_messages,
)
from dear.checkpoints.sentence_transformers_modules import unread_modules
from dear.checkpoints.weights import pickled
from dear.errors import ConfigError, MissingExtra
from dear.notices import say
from dear.scoring.batching import Progress, require_finite
from dear.scoring.encoding import Pair

CHUNK_PAIRS = 1024
"""Pairs that are handed over at once."""


def library_kind(source: Source, kind: str | None) -> str | None:
    """ "biencoder" or "cross-encoder" where only the library computes this folder; None elsewhere.

    kind: what the user asked for.
    """
    cross_encoder = kind is None and cross_encoder_evidence(source) == SETTINGS
    if not cross_encoder and kind != "biencoder":
        return None
    strange = [
        one for one in unread_modules(source) if cross_encoder is False or one != "LogitScore"
    ]
    if strange or (kind == "biencoder" and takes_messages(source)):
        return "cross-encoder" if cross_encoder else "biencoder"
    return None


class LibraryModel:
    """A folder of sentence-transformers, computed by it. kind: "biencoder" or "cross-encoder".

    A score is the similarity of two embeddings, or the logit. MissingExtra without the library.
    """

    def __init__(
        self,
        name: str | Path,
        *,
        kind: str,
        dtype: DType = "auto",
        device: str = "auto",
        batch_tokens: int | None = None,
        revision: str | None = None,
        instruction: str | None = None,
    ) -> None:
        if instruction is not None:
            raise ConfigError(f"{name}: it takes no instruction")
        source = locate(name, revision=revision)
        where = pick_device(device)
        picked = pick_dtype(dtype, where)
        kinds = [entry.kind for entry in modules_of(source)]
        self.name = str(name) if kind == "cross-encoder" else f"biencoder:{name}"
        self.kind, self.source = kind, source
        options: dict[str, Any] = {
            "device": str(where),
            "revision": source.revision,
            "trust_remote_code": False,
            # of a folder it would ask the hub whether it knows it
            "local_files_only": source.folder is not None,
        }
        if "Transformer" in kinds:
            options["model_kwargs"] = {"dtype": picked, "use_safetensors": True}
        library = _class(kind)
        with reading(source), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with within(source.path, _held(source)):
                self.model = library(source.path, **options)
        self.revision = revision_of(source)
        self.parameters = sum(p.numel() for p in self.model.parameters())
        self.contract: dict[str, Any] = {
            "kind": kind,
            "library": "sentence-transformers",
            "modules": kinds,
            "prompts": dict(self.model.prompts),
            "max_tokens": _limit(self.model.max_seq_length),
            "dtype": picked if "Transformer" in kinds else "float32",
        }
        if kind == "cross-encoder":
            self.contract["activation"] = activation_of(source) or "Sigmoid"
        else:
            self.contract["similarity"] = str(self.model.similarity_fn_name)
        self.fingerprint = fingerprint_of(self.contract)
        say(f"{self.name}: computed by sentence-transformers ({', '.join(kinds)})")

    def score(self, pairs: Sequence[Pair], progress: Progress | None = None) -> NDArray[np.float32]:
        """float32 (n,) similarities or logits, in the order given."""
        parts = [np.empty(0, dtype=np.float32)]
        for at in range(0, len(pairs), CHUNK_PAIRS):
            chunk = list(pairs[at : at + CHUNK_PAIRS])
            with quiet():
                parts.append(
                    self._logits(chunk) if self.kind != "biencoder" else self._similar(chunk)
                )
            if progress is not None:
                progress(at + len(chunk), len(pairs))
        scores = np.concatenate(parts)
        require_finite(self.name, scores, pairs)
        return scores

    @property
    def similarity(self) -> str:
        """A key of `dear.scoring.biencoder.SIMILARITIES`."""
        return str(self.contract["similarity"])

    def encode_queries(
        self, texts: Sequence[str], progress: Progress | None = None
    ) -> NDArray[np.float32]:
        """float32 (n, dimensions), of length 1 under cosine."""
        return self._embedded(self.model.encode_query, texts, progress)

    def encode_passages(
        self, texts: Sequence[str], progress: Progress | None = None
    ) -> NDArray[np.float32]:
        """float32 (n, dimensions), of length 1 under cosine."""
        return self._embedded(self.model.encode_document, texts, progress)

    def _embedded(
        self, encode: Any, texts: Sequence[str], progress: Progress | None
    ) -> NDArray[np.float32]:
        unit = self.similarity == "cosine"
        with quiet():
            found = encode(
                list(texts),
                show_progress_bar=False,
                convert_to_tensor=True,
                normalize_embeddings=unit,
            )
        if progress is not None:
            progress(len(texts), len(texts))
        return np.asarray(found.float().cpu().numpy(), dtype=np.float32)

    def _logits(self, pairs: list[Pair]) -> NDArray[np.float32]:
        found = self.model.predict(
            pairs, activation_fn=torch.nn.Identity(), show_progress_bar=False
        )
        return np.asarray(found, dtype=np.float32)

    def _similar(self, pairs: list[Pair]) -> NDArray[np.float32]:
        queries, passages = (list(dict.fromkeys(texts)) for texts in zip(*pairs, strict=True))
        a = self.model.encode_query(queries, show_progress_bar=False, convert_to_tensor=True)
        b = self.model.encode_document(passages, show_progress_bar=False, convert_to_tensor=True)
        at = {text: i for i, text in enumerate(queries)}
        behind = {text: i for i, text in enumerate(passages)}
        rows = [at[q] for q, _ in pairs], [behind[p] for _, p in pairs]
        found = self.model.similarity_pairwise(a[rows[0]], b[rows[1]])
        return np.asarray(found.float().cpu().numpy(), dtype=np.float32)


def _limit(tokens: float | None) -> int | None:
    """None for models that read texts of any length, whose limit is infinite: JSON has no word for
    that."""
    return None if tokens is None or not math.isfinite(tokens) else int(tokens)


def _held(source: Source) -> Held | None:
    """ConfigError for a module whose weights are a pickle alone."""
    folder = source.folder
    if folder is None:
        return None
    for path in sorted(folder.rglob("pytorch_model*.bin")):
        if not any(path.parent.glob("*.safetensors")):
            name = path.relative_to(folder).as_posix()
            raise pickled(source, name, missing="safetensors beside it")
    return Held.by(path for path in folder.rglob("*.safetensors") if path.is_file())


def _class(kind: str) -> Any:
    try:
        import sentence_transformers as library
    except ImportError:
        raise MissingExtra.of("sentence-transformers", "sbert") from None
    return library.CrossEncoder if kind == "cross-encoder" else library.SentenceTransformer
