"""Learned sparse retrieval: an inverted index of the terms that a SPLADE model gives a passage."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from dear.errors import ConfigError
from dear.retrieve.blocks import BlockIndex, model_values
from dear.retrieve.table import WITH_MODEL, RetrieverSpec, Setting
from dear.scoring.batching import Progress
from dear.scoring.opening import open_model
from dear.scoring.revisions import scoring_inputs
from dear.scoring.splade import Matrix, Splade


class SparseEncoder:
    """A SPLADE model as an Encoder.

    A block's file holds postings: for each term the passages that have it and their weights, a
    matrix (terms, passages). What a query costs is the length of its terms' postings.
    """

    suffix = ".npz"

    def __init__(self, model: Splade) -> None:
        self.model = model
        self.name = model.name
        self.inputs = scoring_inputs(model)
        self.values = model_values(model)

    def encode_queries(self, texts: Sequence[str]) -> Matrix:
        return self.model.encode_queries(texts)

    def encode_passages(self, texts: Sequence[str], progress: Progress | None = None) -> Matrix:
        return self.model.encode_passages(texts, progress)

    def save(self, path: Path, block: Matrix) -> None:
        postings = block.T.tocsr()
        with path.open("wb") as file:
            np.savez(
                file,
                weights=postings.data,
                passages=postings.indices.astype(np.int32),
                ends=postings.indptr.astype(np.int64),
            )

    def load(self, path: Path, rows: int) -> Matrix:
        try:
            with zipfile.ZipFile(path) as held:
                names = ("weights", "passages", "ends")
                parts = tuple(_array(held.read(f"{name}.npy")) for name in names)
        except (zipfile.BadZipFile, KeyError, zlib.error) as error:
            raise ValueError(f"{path}: no postings: {error}") from None
        # scipy checks that they fit each other
        postings = sparse.csr_matrix(parts, shape=(self.model.vocabulary, rows))
        postings.check_format(full_check=True)
        return postings

    def scores(self, queries: Matrix, block: Matrix) -> NDArray[np.float32]:
        found: NDArray[np.float32] = (queries @ block).toarray()
        found[found <= 0] = -np.inf  # no term in common
        return found


def _array(data: bytes) -> NDArray[Any]:
    array: NDArray[Any] = np.load(io.BytesIO(data), allow_pickle=False)
    return array


def open_splade(spec: RetrieverSpec, setting: Setting) -> BlockIndex[Matrix]:
    """`splade:MODEL` over a corpus. ConfigError for several devices."""
    model = open_model(f"{WITH_MODEL[spec.kind]}:{spec.model}", **setting.options)
    if not isinstance(model, Splade):
        raise ConfigError(f"{spec.name}: vectors are computed on one device")
    encoder = SparseEncoder(model)
    with setting.watch(spec.name) as progress:
        return BlockIndex(setting.corpus, encoder, folder=setting.folder, progress=progress)
