"""Soft labels: a teacher's score for each (query, passage), written once, read many times.

A store is a folder of Parquet shards and a `manifest.json`. It belongs to one collection, one
teacher (with the revision of its weights) and one scoring contract; every shard carries the same
stamp, and checksums of its pages. Shards are only ever added, each written whole or not at all,
so a killed writer loses the shard it was at and nothing else. A folder of stores with an
`ensemble.json` reads as one teacher.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dear.artifacts import atomic_path, read_json, write_json
from dear.errors import ConfigError, ContractMismatch, DataError, excerpt
from dear.records import Run

MANIFEST = "manifest.json"
ENSEMBLE = "ensemble.json"
FORMAT = "dear-labels/1"
COLUMNS = ("query_id", "passage_id", "score")
_SHARD = re.compile(r"shard-(\d{6})\.parquet")

PairId = tuple[str, str]
"""(query id, passage id)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stamp:
    """Whose scores these are. Two stores with equal stamps may be joined; others never.

    contract: the scoring contract as a dict, or how a zero-shot teacher was asked.
    fingerprint: the contract's.
    """

    collection: str
    teacher: str
    revision: str
    fingerprint: str
    contract: dict[str, Any] = field(default_factory=dict)

    def require(self, other: Stamp, folder: Path) -> None:
        """ContractMismatch that names every difference to the labels in `folder`."""
        found = [
            f"{name}: {theirs!r} there, {mine!r} now"
            for name in ("collection", "teacher", "revision")
            if (mine := getattr(self, name)) != (theirs := getattr(other, name))
        ]
        if self.fingerprint != other.fingerprint:
            keys = [
                k
                for k in sorted({*self.contract, *other.contract})
                if self.contract.get(k) != other.contract.get(k) and k != "name"
            ]
            found += [
                f"contract {k}: {other.contract.get(k)!r} there, {self.contract.get(k)!r} now"
                for k in keys
            ] or [f"contract: {other.fingerprint} there, {self.fingerprint} now"]
        if found:
            raise ContractMismatch(
                f"{folder} holds other labels ({'; '.join(found)}); choose another folder"
            )


@dataclass(frozen=True, slots=True)
class Labels:
    """Teacher scores in memory, by query id and passage id."""

    scores: Mapping[str, Mapping[str, float]]
    stamps: tuple[Stamp, ...] = ()

    def __len__(self) -> int:
        return sum(len(row) for row in self.scores.values())

    def __contains__(self, pair: object) -> bool:
        if not isinstance(pair, tuple) or len(pair) != 2:
            return False
        return pair[1] in self.scores.get(pair[0], {})

    def of(self, query_id: str, passage_ids: Sequence[str]) -> NDArray[np.float32]:
        """float32 (n,); NaN where there is no label."""
        row = self.scores.get(query_id, {})
        return np.array([row.get(p, np.nan) for p in passage_ids], dtype=np.float32)

    def missing(self, run: Run) -> int:
        """How many pairs of a run have no label."""
        return sum((q, p) not in self for q, r in run.items() for p in r.passage_ids)

    def scaled(self, factor: float) -> Labels:
        """Every score times `factor` (> 0): a similarity becomes a logit."""
        return Labels(
            {q: {p: s * factor for p, s in row.items()} for q, row in self.scores.items()},
            self.stamps,
        )


class LabelStore:
    """A store that is open for writing; use `open_store`."""

    def __init__(self, folder: Path, stamp: Stamp) -> None:
        self.folder = folder
        self.stamp = stamp
        self._done: set[PairId] = set()
        self._next = 0
        for path in _shards(folder):
            pairs = list(zip(*_read_shard(path, stamp, ("query_id", "passage_id")), strict=True))
            before = len(self._done)
            self._done.update(pairs)
            if len(self._done) != before + len(pairs):
                raise DataError.at(path, None, "holds a pair that has a label already; delete it")
            self._next = int(path.stem.rpartition("-")[2]) + 1

    def __len__(self) -> int:
        return len(self._done)

    def __contains__(self, pair: object) -> bool:
        return pair in self._done

    def append(self, pairs: Sequence[PairId], scores: NDArray[np.float32]) -> None:
        """One shard, whole or not at all. DataError for a pair that is there already and for a
        score that is not finite; nothing is written then."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        if len(pairs) != len(scores):
            raise DataError(f"{len(pairs)} pairs, {len(scores)} scores")
        if not pairs:
            return
        fresh = set(pairs)
        if len(fresh) != len(pairs) or not fresh.isdisjoint(self._done):
            raise DataError.at(self.folder, None, "a pair would be labelled twice")
        if not np.isfinite(scores).all():
            at = int(np.flatnonzero(~np.isfinite(scores))[0])
            raise DataError(f"query {pairs[at][0]!r}, passage {pairs[at][1]!r}: {scores[at]}")
        columns = ([q for q, _ in pairs], [p for _, p in pairs], scores)
        try:
            table = pa.table(
                [pa.array(c, t) for c, t in zip(columns, _types(), strict=True)], names=COLUMNS
            )
        except UnicodeEncodeError as error:
            raise DataError(f"the id {excerpt(error.object)} is no valid text") from None
        table = table.replace_schema_metadata(
            {"dear": json.dumps(asdict(self.stamp), sort_keys=True)}
        )
        with atomic_path(self.folder / f"shard-{self._next:06d}.parquet") as path:
            pq.write_table(table, path, compression="zstd", write_page_checksum=True)
        self._done |= fresh
        self._next += 1

    def record(self, job: Mapping[str, Any]) -> None:
        """Notes what a job that came to its end took, behind those before it."""
        path = self.folder / MANIFEST
        values = read_json(path)
        write_json(path, values | {"jobs": [*values.get("jobs", ()), dict(job)]})


@contextlib.contextmanager
def open_store(folder: Path, stamp: Stamp) -> Iterator[LabelStore]:
    """The store in `folder`, made if need be, for this process alone.

    Raises ContractMismatch if the folder holds labels of another teacher, collection or
    contract, DataError if another process writes to it or a shard is damaged.
    """
    if (folder / ENSEMBLE).exists():
        raise DataError.at(folder, None, "is an ensemble of label folders; choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise DataError.at(folder, None, "another process is writing labels here") from None
        for cut_short in folder.glob(".*.tmp"):  # of a writer that was killed
            cut_short.unlink()
        if not (folder / MANIFEST).exists():
            if _shards(folder):
                raise DataError.at(folder, None, f"shards but no {MANIFEST}; choose another folder")
            write_json(folder / MANIFEST, {"format": FORMAT, **asdict(stamp)})
        there = _read_stamp(folder)
        stamp.require(there, folder)
        yield LabelStore(folder, there)


def read_labels(folder: Path | str) -> Labels:
    """All labels of a store, or of an ensemble of stores.

    Members of an ensemble are brought to mean 0 and standard deviation 1 for each query, over
    the passages that all members labelled, and summed with their weights.
    DataError: no labels there, a damaged shard, a pair with two labels. ContractMismatch: a shard
    of another store.
    """
    folder = Path(folder)
    if (folder / ENSEMBLE).is_file():
        return _read_ensemble(folder)
    stamp = _read_stamp(folder)
    scores: dict[str, dict[str, float]] = {}
    for path in _shards(folder):
        for query_id, passage_id, score in zip(*_read_shard(path, stamp), strict=True):
            row = scores.setdefault(query_id, {})
            if passage_id in row:
                raise DataError.at(
                    path, None, f"query {query_id!r}, passage {passage_id!r} has two labels"
                )
            row[passage_id] = score
    return Labels(scores, (stamp,))


def iter_shards(folder: Path) -> Iterator[list[list[Any]]]:
    """The columns (query ids, passage ids, scores) of each shard of a store. Errors as
    `read_labels`, but for a pair with two labels."""
    stamp = _read_stamp(folder)
    for path in _shards(folder):
        yield _read_shard(path, stamp)


def labels_identity(folder: Path) -> list[str]:
    """Names, sizes and times of all files of a store or an ensemble: another one where the labels
    are others. DataError: no labels there."""
    if not (folder / ENSEMBLE).is_file() and not (folder / MANIFEST).is_file():
        raise DataError.at(folder, None, f"holds no labels (no {MANIFEST})")
    files = [p for p in sorted(folder.rglob("*")) if p.suffix in (".parquet", ".json")]
    about = ((p, p.stat()) for p in files)
    return [f"{p.resolve()}:{a.st_size}:{a.st_mtime_ns}" for p, a in about]


def ensemble(members: Sequence[Labels], weights: Sequence[float]) -> Labels:
    """One teacher out of several: z-scores for each query, weighted and summed.

    Only pairs that every member labelled get a score.
    """
    if len(members) != len(weights) or not members:
        raise ConfigError(f"{len(members)} members of an ensemble, {len(weights)} weights")
    scores: dict[str, dict[str, float]] = {}
    for query_id in members[0].scores:
        shared = [
            p
            for p in members[0].scores[query_id]
            if all(p in m.scores.get(query_id, {}) for m in members[1:])
        ]
        if shared:
            total = sum(
                w * z_scores(m.of(query_id, shared)) for w, m in zip(weights, members, strict=True)
            )
            scores[query_id] = dict(zip(shared, np.asarray(total).tolist(), strict=True))
    return Labels(scores, tuple(s for m in members for s in m.stamps))


def z_scores(values: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Mean 0, standard deviation 1; all 0 where the values do not differ."""
    centred = np.asarray(values, dtype=np.float64) - np.mean(values, dtype=np.float64)
    deviation = centred.std()
    return centred / deviation if deviation > 1e-12 else np.zeros_like(centred)


def write_ensemble(folder: Path, members: Mapping[str, float]) -> None:
    """Declare the stores in these subfolders, with their weights, to be one teacher."""
    if (folder / MANIFEST).exists():
        raise DataError.at(folder, None, "holds labels itself; choose another folder")
    write_json(folder / ENSEMBLE, {"format": FORMAT, "members": dict(members)})


def _read_ensemble(folder: Path) -> Labels:
    declared = read_json(folder / ENSEMBLE).get("members")
    if not isinstance(declared, dict) or not declared:
        raise DataError.at(folder / ENSEMBLE, None, "names no members")
    members = [read_labels(folder / name) for name in declared]
    return ensemble(members, [float(w) for w in declared.values()])


def _read_stamp(folder: Path) -> Stamp:
    path = folder / MANIFEST
    if not path.is_file():
        raise DataError.at(folder, None, f"holds no labels (no {MANIFEST})")
    values = read_json(path)
    if values.pop("format", None) != FORMAT:
        raise DataError.at(path, None, f"is not of format {FORMAT}")
    values.pop("jobs", None)
    try:
        return Stamp(**values)
    except TypeError as error:
        raise DataError.at(path, None, f"is not a label manifest: {error}") from None


def _shards(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if _SHARD.fullmatch(p.name))


def _types() -> list[Any]:
    """The Arrow types of COLUMNS."""
    import pyarrow as pa

    return [pa.string(), pa.string(), pa.float32()]


def _read_shard(path: Path, stamp: Stamp, columns: Sequence[str] = COLUMNS) -> list[list[Any]]:
    """The columns of a shard that belongs to the store with this stamp."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, columns=list(columns), page_checksum_verification=True)
        theirs = Stamp(**json.loads((table.schema.metadata or {})[b"dear"]))
        expected = dict(zip(COLUMNS, _types(), strict=True))
        for name in columns:
            if table.schema.field(name).type != expected[name]:
                raise ValueError(f"column {name} is {table.schema.field(name).type}")
        found = [table.column(name).to_pylist() for name in columns]
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise DataError.at(
            path, None, f"the shard is damaged, delete it and label again: {error}"
        ) from None
    stamp.require(theirs, path)
    return found
