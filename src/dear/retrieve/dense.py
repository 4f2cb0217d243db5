"""Dense retrieval: exact search through the embeddings of a bi-encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from dear.errors import BackendError, ConfigError, excerpt
from dear.retrieve.blocks import BlockIndex, model_values
from dear.retrieve.table import WITH_MODEL, RetrieverSpec, Setting
from dear.scoring.batching import Progress
from dear.scoring.biencoder import BiEncoder
from dear.scoring.opening import open_model
from dear.scoring.revisions import scoring_inputs
from dear.scoring.sentence_transformers_library import LibraryModel

Vectors: TypeAlias = NDArray[np.float32]


def _products(queries: Vectors, passages: Vectors) -> Vectors:
    products: Vectors = queries @ passages.T
    return products


def _negative(metric: str) -> Callable[[Vectors, Vectors], Vectors]:
    return lambda a, b: -cdist(a, b, metric).astype(np.float32)


SIMILARITIES: dict[str, Callable[[Vectors, Vectors], Vectors]] = {
    "cosine": _products,  # of vectors of length 1
    "dot": _products,
    "euclidean": _negative("euclidean"),
    "manhattan": _negative("cityblock"),
}
"""Those of `dear.scoring.biencoder`, of all pairs of queries and passages."""


class DenseEncoder:
    """A bi-encoder as an Encoder: float32 embeddings, memory-mapped .npy files."""

    suffix = ".npy"

    def __init__(self, model: BiEncoder | LibraryModel) -> None:
        self.model = model
        self.name = f"dense:{model.name.removeprefix('biencoder:')}"
        self.inputs = scoring_inputs(model)
        self.values = model_values(model)
        self._similar = SIMILARITIES[model.similarity]

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        return self._finite(self.model.encode_queries(texts), texts)

    def encode_passages(self, texts: Sequence[str], progress: Progress | None = None) -> Vectors:
        return self._finite(self.model.encode_passages(texts, progress), texts)

    def save(self, path: Path, block: Vectors) -> None:
        with path.open("wb") as file:
            np.save(file, np.ascontiguousarray(block))

    def load(self, path: Path, rows: int) -> Vectors:
        block: Vectors = np.load(path, mmap_mode="r", allow_pickle=False)
        if block.dtype != np.float32 or block.ndim != 2 or len(block) != rows:
            raise ValueError(f"{path}: no block of {rows} float32 vectors")
        return block

    def scores(self, queries: Vectors, block: Vectors) -> Vectors:
        return self._similar(queries, block)

    def _finite(self, vectors: Vectors, texts: Sequence[str]) -> Vectors:
        bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if len(bad):
            raise BackendError(
                f"{self.name}: the embedding of {excerpt(texts[bad[0]])} is not finite; "
                "try --dtype float32"
            )
        return vectors


def open_dense(spec: RetrieverSpec, setting: Setting) -> BlockIndex[Vectors]:
    """`dense:MODEL` over a corpus. ConfigError for several devices."""
    model = open_model(f"{WITH_MODEL[spec.kind]}:{spec.model}", **setting.options)
    if not isinstance(model, BiEncoder | LibraryModel):
        raise ConfigError(f"{spec.name}: vectors are computed on one device")
    encoder = DenseEncoder(model)
    with setting.watch(spec.name) as progress:
        return BlockIndex(setting.corpus, encoder, folder=setting.folder, progress=progress)
