"""Many soft labels without holding them as Python objects: 12 bytes a pair, memory-mapped.

A table is `KEY.npy` (hashes of the pairs' ids, sorted), `KEY.scores.npy` and `KEY.json`, written
last, in the cache. The store that it was made from stays what counts: another store, or one that
has grown, is another KEY.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dear.artifacts import atomic_path, read_json, write_json
from dear.data.example_table import about_path, alone, cache_folder
from dear.data.labels import ENSEMBLE, Labels, iter_shards, labels_identity, read_labels
from dear.errors import DataError

FORMAT = "dear-label-table/1"
IN_MEMORY_BYTES = 16 << 20
"""Of shards, about a million pairs: a store below this is read into memory."""


class LabelTable:
    """Teacher scores by id; see `dear.data.groups.TeacherScores`.

    Pairs are known by 64 bits of a hash: that a pair without a label gets another's score is less
    than one in a million for 15 million pairs and as many look-ups.
    """

    def __init__(self, keys: NDArray[np.uint64], scores: NDArray[np.float32], scale: float) -> None:
        self._keys, self._scores, self._scale = keys, scores, scale

    def __len__(self) -> int:
        return len(self._keys)

    def of(self, query_id: str, passage_ids: Sequence[str]) -> NDArray[np.float32]:
        """float32 (n,); NaN where there is no label."""
        wanted = np.array([_key(query_id, p) for p in passage_ids], dtype=np.uint64)
        places = np.minimum(np.searchsorted(self._keys, wanted), len(self._keys) - 1)
        # in float64, as the labels in memory are scaled
        scores = self._scores[places].astype(np.float64) * self._scale
        found = np.where(self._keys[places] == wanted, scores, np.nan)
        return np.asarray(found, dtype=np.float32)


def open_labels(
    folder: Path, scale: float = 1.0, tables: Path | None = None, *, small: int = IN_MEMORY_BYTES
) -> Labels | LabelTable:
    """A store's labels times `scale`: in memory where they are few or an ensemble, else a table."""
    size = sum(path.stat().st_size for path in folder.glob("*.parquet"))
    if (folder / ENSEMBLE).is_file() or size < small:
        return read_labels(folder).scaled(scale)
    identity = "\n".join([FORMAT, *labels_identity(folder)])
    name = hashlib.sha256(identity.encode()).hexdigest()[:24]
    path = (tables or cache_folder("labels")) / f"{name}.npy"
    if not about_path(path).exists():
        with alone(path):
            if not about_path(path).exists():
                _write(path, folder)
    if read_json(about_path(path)).get("format") != FORMAT:
        raise DataError.at(path, None, f"is not of format {FORMAT}")
    try:
        keys = np.load(path, mmap_mode="r")
        scores = np.load(_scores_path(path), mmap_mode="r")
    except (OSError, ValueError) as error:
        raise DataError.at(path, None, f"the table is damaged, remove it: {error}") from error
    return LabelTable(keys, scores, scale)


def _write(path: Path, folder: Path) -> None:
    keys, scores = [], []
    for query_ids, passage_ids, shard in iter_shards(folder):
        pairs = zip(query_ids, passage_ids, strict=True)
        keys.append(np.array([_key(q, p) for q, p in pairs], dtype=np.uint64))
        scores.append(np.array(shard, dtype=np.float32))
    all_keys = np.concatenate(keys)
    order = np.argsort(all_keys)
    all_keys = all_keys[order]
    if (all_keys[1:] == all_keys[:-1]).any():
        raise DataError.at(folder, None, "holds a pair with two labels")
    for target, values in (
        (path, all_keys),
        (_scores_path(path), np.concatenate(scores)[order]),
    ):
        with atomic_path(target) as temporary, temporary.open("wb") as file:
            np.save(file, values)
    write_json(about_path(path), {"format": FORMAT, "pairs": len(all_keys)})


def _scores_path(path: Path) -> Path:
    return path.with_suffix(".scores.npy")


def _key(query_id: str, passage_id: str) -> int:
    # the length in front: "a" + "bc" is not "ab" + "c"
    text = f"{len(query_id)} {query_id}{passage_id}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
