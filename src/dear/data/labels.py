"""Soft labels: a teacher's score for each (query, passage), written once, read many times.

A store is a folder of Parquet shards and a `manifest.json`. It belongs to one collection, one
teacher (with the revision of its weights) and one scoring contract; every shard carries the same
stamp, and checksums of its pages. Beside each score stands a digest of the two texts that it is
for: a pair whose texts have changed is scored again, into a later shard, and the latest row of a
pair counts. Shards are only ever added, each written whole or not at all, so a killed writer loses
the shard it was at and nothing else; a shard's number is never used again. A folder of stores with
an `ensemble.json` reads as one teacher.

A store may be a share of a job (dear.data.shards): its manifest says which, its files have the
numbers of leaves, and once the job is done the manifest has their digest.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dear import locks
from dear.artifacts import atomic_path, inside, read_json, write_json
from dear.characters import HARMFUL_IN_ID
from dear.data.formats.lines import check_id, check_parquet
from dear.data.id_keys import id_keys
from dear.data.inputs import UNKNOWN, Keys
from dear.data.label_failures import FAILED, Failure, read_failures, write_failures
from dear.data.label_index import (
    KEPT_ROWS,
    LabelIndex,
    Rows,
    Scores,
    TwoLabelsError,
    load,
    query_keys,
)
from dear.data.shards import Share
from dear.data.z_scores import z_scores
from dear.digests import Input, Inputs, file_digests, lines_digest, signature
from dear.errors import ConfigError, ContractMismatch, DataError, excerpt
from dear.records import Run

if TYPE_CHECKING:
    from dear.data.label_mirror import LabelMirror

MANIFEST = "manifest.json"
ENSEMBLE = "ensemble.json"
FORMAT = "dear-labels/2"
FORMER_FORMAT = "dear-labels/1"
"""Without digests of texts."""

COLUMNS = ("query_id", "passage_id", "score", "texts")

MOST_WEIGHT = 1e6
"""Of a member of an ensemble."""

SMALL_BYTES = 16 << 20
"""Of shards, about a million pairs: `open_labels` reads a store below this into memory."""

_SHARD = re.compile(r"shard-(\d{6,})\.parquet")
_SHARDS_AT_ONCE = 64
_FLUSHED_ROWS = 1 << 23

logger = logging.getLogger(__name__)

PairId = tuple[str, str]
"""(query id, passage id)."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Stamp:
    """Whose scores these are. Two stores with equal stamps may be joined; others never.

    contract: the scoring contract as a dict, or how a zero-shot teacher was asked.
    fingerprint: the contract's.
    former: whether a revision or a fingerprint that an earlier version wrote is this one; see
        `dear.digests.Input`.
    """

    collection: str
    teacher: str
    revision: str
    fingerprint: str
    contract: dict[str, Any] = field(default_factory=dict)
    former: Callable[[str], bool | None] | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of(cls, values: Any) -> Stamp:
        """From plain values. TypeError: unknown or missing ones, or one that is no text."""
        stamp = cls(**values)
        texts = (stamp.collection, stamp.teacher, stamp.revision, stamp.fingerprint)
        if not all(isinstance(text, str) for text in texts) or stamp.former is not None:
            raise TypeError("collection, teacher, revision and fingerprint must be text")
        if not isinstance(stamp.contract, dict):
            raise TypeError("contract must be a table")
        return stamp

    @property
    def inputs(self) -> Inputs:
        contract = {key: value for key, value in self.contract.items() if key != "name"}
        return Inputs(
            {
                "collection": Input(self.collection),
                "teacher": Input(self.teacher),
                "revision": Input(self.revision, former=self.former),
                "contract": Input(self.fingerprint, values=contract, former=self.former),
            }
        )

    def require(self, other: Stamp, folder: Path | str) -> None:
        """ContractMismatch that names every difference to the labels in `folder`."""
        if found := other.inputs.changes(self.inputs):
            raise ContractMismatch(
                f"{folder} holds other labels ({found}); choose another folder, or remove it"
            )

    def to_dict(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "former"}


@dataclass(frozen=True, slots=True)
class Labels:
    """Teacher scores in memory, by query id and passage id.

    stamps: of the stores that they come from.
    texts: for each of them, digests of the texts that were scored; UNKNOWN where not written down.
    """

    scores: Mapping[str, Mapping[str, float]]
    stamps: tuple[Stamp, ...] = ()
    texts: tuple[Mapping[str, Mapping[str, int]], ...] = ()

    def __len__(self) -> int:
        return sum(len(row) for row in self.scores.values())

    def __contains__(self, pair: object) -> bool:
        if not isinstance(pair, tuple) or len(pair) != 2:
            return False
        return pair[1] in self.scores.get(pair[0], {})

    def of(self, query_id: str, passage_ids: Sequence[str]) -> Scores:
        """float32 (n,); NaN where there is no label."""
        row = self.scores.get(query_id, {})
        return np.array([row.get(p, np.nan) for p in passage_ids], dtype=np.float32)

    def texts_of(self, query_id: str, passage_ids: Sequence[str]) -> Keys:
        """uint64 (stores, n): the digests of `texts`; UNKNOWN where there is none."""
        rows = [store.get(query_id, {}) for store in self.texts]
        found = [[row.get(p, int(UNKNOWN)) for p in passage_ids] for row in rows]
        return np.array(found, dtype=np.uint64).reshape(len(rows), len(passage_ids))

    def missing(self, run: Run) -> int:
        """How many pairs of a run have no label."""
        return sum((q, p) not in self for q, r in run.items() for p in r.passage_ids)

    def scaled(self, factor: float) -> Labels:
        """Every score times `factor` (> 0): a similarity becomes a logit."""
        scores = {q: {p: s * factor for p, s in row.items()} for q, row in self.scores.items()}
        return Labels(scores, self.stamps, self.texts)


class LabelsOnDisk:
    """The labels of a large store: the same questions as `Labels` answers, a little slower."""

    def __init__(self, index: LabelIndex, stamp: Stamp, scale: float = 1.0) -> None:
        self._index, self.stamps, self._scale = index, (stamp,), scale

    def __len__(self) -> int:
        return len(self._index)

    def of(self, query_id: str, passage_ids: Sequence[str]) -> Scores:
        """float32 (n,); NaN where there is no label."""
        # in float64, as the labels in memory are scaled
        return (self._find(query_id, passage_ids)[0].astype(np.float64) * self._scale).astype(
            np.float32
        )

    def texts_of(self, query_id: str, passage_ids: Sequence[str]) -> Keys:
        """uint64 (1, n): as `Labels.texts_of`."""
        return self._find(query_id, passage_ids)[1][None]

    def of_batch(self, pairs: Sequence[PairId]) -> Scores:
        """float32 (n,), all looked up at once; NaN where there is no label."""
        _, scores, _ = self._index.find(*_pair_keys(pairs))
        return (scores.astype(np.float64) * self._scale).astype(np.float32)

    def _find(self, query_id: str, passage_ids: Sequence[str]) -> tuple[Scores, Keys]:
        _, scores, texts = self._index.find(*_pair_keys([(query_id, p) for p in passage_ids]))
        return scores, texts


class LabelStore:
    """A store that is open for writing; use `open_store`."""

    def __init__(
        self,
        folder: Path,
        stamp: Stamp,
        number: int,
        index: LabelIndex,
        failures: Sequence[Failure] = (),
        mirror: LabelMirror | None = None,
    ) -> None:
        self.folder = folder
        self.stamp = stamp
        self._number = number
        self._index = index
        self.failures = list(failures)
        self._mirror = mirror

    def __len__(self) -> int:
        return len(self._index)

    def __contains__(self, pair: object) -> bool:
        if not isinstance(pair, tuple) or len(pair) != 2:
            return False
        return bool(self.find([pair])[0][0])

    def fail(self, failures: Sequence[Failure]) -> None:
        """Notes pairs that could not be scored, on the disk before the shard that lacks them."""
        self.failures.extend(failures)
        write_failures(self.folder, self.failures)
        self._push(FAILED)

    def find(self, pairs: Sequence[PairId]) -> tuple[NDArray[np.bool_], Scores, Keys]:
        """(whether each pair has a label, the label or NaN, the digest of the texts that it is
        for), each (n,)."""
        return self._index.find(*_pair_keys(pairs))

    def append(
        self,
        pairs: Sequence[PairId],
        scores: Scores,
        texts: Keys | None = None,
        *,
        leaf: int | None = None,
    ) -> None:
        """One shard, whole or not at all.

        texts: digests of the pairs' texts (dear.data.inputs.pair_digests), UNKNOWN where None. A
        pair that has a label of other texts gets this one in its place.
        leaf: of the store's share, all of whose pairs these are.
        DataError for a pair that has a label of the same texts and for a score that is not finite;
        nothing is written then.
        """
        if len(pairs) != len(scores):
            raise DataError(f"{len(pairs)} pairs, {len(scores)} scores")
        if not pairs:
            return
        for what, ids in (("query", {q for q, _ in pairs}), ("passage", {p for _, p in pairs})):
            for identifier in ids:
                check_id(identifier, self.folder, None, f"{what} id")
        if not np.isfinite(scores).all():
            at = int(np.flatnonzero(~np.isfinite(scores))[0])
            raise DataError(f"query {pairs[at][0]!r}, passage {pairs[at][1]!r}: {scores[at]}")
        if texts is None:
            texts = np.full(len(pairs), UNKNOWN)
        try:
            rows = Rows.of(*_pair_keys(pairs), np.asarray(scores, dtype=np.float32), texts)
            new = self._index.count_new(rows)
        except UnicodeEncodeError as error:
            raise DataError(f"the id {excerpt(error.object)} is no valid text") from None
        except TwoLabelsError:
            raise DataError.at(self.folder, None, "a pair would be labelled twice") from None
        if len(rows) != len(pairs):
            raise DataError.at(self.folder, None, "a pair would be labelled twice")
        number = self._number if leaf is None else leaf
        shard = _shard_path(self.folder, number)
        if shard.exists():
            problem = "is there, and not whole; delete it and label again"
            raise DataError.at(shard, None, problem)
        write_shard(shard, pairs, scores, texts, self.stamp)
        self._index.add(rows, new)
        if leaf is None:
            self._number += 1
            # with pairs of another job it is no share any more
            _update(self.folder, {"next_shard": self._number, "share": None})
        self._push(shard.name, *([MANIFEST] if leaf is None else []))
        if self._index.behind >= _FLUSHED_ROWS:
            self._index.save(self.folder, _signatures(_shards(self.folder)))

    def finish(self) -> None:
        """Notes that all pairs of the store's share are labelled, and what its files are."""
        note = read_json(self.folder / MANIFEST)["share"]
        digest = lines_digest(file_digests(shard_files(self.folder)))
        _update(self.folder, {"share": {**note, "digest": digest}})
        self._push(MANIFEST)

    def record(self, job: Mapping[str, Any]) -> None:
        """Notes what a job that came to its end took, behind those before it."""
        jobs = read_json(self.folder / MANIFEST).get("jobs", ())
        _update(self.folder, {"jobs": [*jobs, dict(job)]})
        self._push(MANIFEST)

    def _push(self, *names: str) -> None:
        if self._mirror is not None:
            self._mirror.push(self.folder, *names)


@contextlib.contextmanager
def open_store(
    folder: Path,
    stamp: Stamp,
    share: Share | None = None,
    *,
    again: bool = False,
    mirror: LabelMirror | None = None,
) -> Iterator[LabelStore]:
    """The store in `folder`, made if need be, for this process alone.

    share: of a job that is cut into shards; a store has one job's, and always the same one.
    again: pairs that could not be scored (dear.data.label_failures) are to be tried again.
    mirror: gets each file when it is written, and gives those that the folder lacks.

    One that an earlier version wrote is brought to this version's form; its shards stay as they
    are, and so does that their texts are not known.
    Raises ContractMismatch if the folder holds labels of another teacher, collection or
    contract, DataError if another process writes to it or a shard is damaged.
    """
    if (folder / ENSEMBLE).exists():
        raise DataError.at(folder, None, "is an ensemble of label folders; choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        if not locks.lock(lock.fileno()):
            raise DataError.at(folder, None, "another process is writing labels here")
        for cut_short in folder.glob(".*.tmp"):  # of a writer that was killed
            cut_short.unlink()
        if mirror is not None:
            mirror.take_over(folder, stamp, share)
        if not (folder / MANIFEST).exists():
            if shard_files(folder):
                raise DataError.at(folder, None, f"shards but no {MANIFEST}; choose another folder")
            fresh = {"format": FORMAT, **stamp.to_dict(), "next_shard": 0}
            if share is not None:  # numbers below are those of leaves
                fresh |= {"next_shard": share.leaves, "share": share.to_dict()}
            write_json(folder / MANIFEST, fresh)
        there = Manifest.read(folder)
        stamp.require(there.stamp, folder)
        there.require_share(share, folder)
        there = there.brought_up(folder, stamp)
        if again:
            clear_failures(folder)
        index = _index(folder, there)
        if mirror is not None:
            mirror.level(folder)
        failures = read_failures(folder)
        yield LabelStore(folder, there.stamp, there.next_shard, index, failures, mirror)
        if index.behind >= KEPT_ROWS:
            index.save(folder, _signatures(_shards(folder)))


@dataclass(frozen=True, slots=True)
class Manifest:
    """stamp: of the store; former: those that shards of earlier versions carry.

    share: what the store has of a job that was cut.  digest: of its files, once it was done.
    """

    format: str
    stamp: Stamp
    former: tuple[Stamp, ...]
    next_shard: int
    share: Share | None = None
    digest: str | None = None

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        path = folder / MANIFEST
        if not path.is_file():
            raise DataError.at(folder, None, f"holds no labels (no {MANIFEST})")
        values = read_json(path)
        kind = values.pop("format", None)
        if kind not in (FORMAT, FORMER_FORMAT):
            raise DataError.at(path, None, f"is not of format {FORMAT}")
        values.pop("jobs", None)
        try:
            former = tuple(Stamp.of(one) for one in values.pop("former", ()))
            number = int(values.pop("next_shard", 0))
            note = values.pop("share", None)
            share = None if note is None else Share.of_dict(note)
            digest = None if note is None else note.get("digest")
            stamp = Stamp.of(values)
        except (TypeError, ValueError, KeyError, OverflowError) as error:
            raise DataError.at(path, None, f"is not a label manifest: {error}") from None
        # a writer may have been killed between a shard and this
        numbers = [shard_number(p) + 1 for p in shard_files(folder)]
        return cls(kind, stamp, former, max([number, *numbers]), share, digest)

    def brought_up(self, folder: Path, stamp: Stamp) -> Manifest:
        """As `stamp` has it now, in this version's form; written if it was not so."""
        former, unverified = self.former, self.stamp.inputs.changes(stamp.inputs).unverified
        if unverified:
            former = (*former, self.stamp)
            logger.warning(
                "%s: unverified: an earlier version wrote these labels, and looked less closely at "
                "their %s; they are kept",
                *(folder, " and ".join(unverified)),
            )
        else:
            stamp = self.stamp  # the same but for the contract's name
        found = replace(self, format=FORMAT, stamp=stamp, former=former)
        if found != self or read_json(folder / MANIFEST).get("next_shard") != self.next_shard:
            change = {"format": FORMAT, **stamp.to_dict(), "next_shard": self.next_shard}
            if former:
                change["former"] = [one.to_dict() for one in former]
            _update(folder, change)
        return found

    def require_share(self, share: Share | None, folder: Path | str) -> None:
        """ContractMismatch where the store has another share, or another job's."""
        there = self.share
        if there is None and share is None:
            return
        if there is None or (share is None and there.of > 1):
            has = "labels that were not cut" if there is None else str(there)
            raise ContractMismatch(f"{folder} holds {has}; choose another folder")
        if share is not None:
            if found := there.inputs.changes(share.inputs):
                raise ContractMismatch(f"{folder} holds labels of another job ({found})")
            if there.numbers != share.numbers:
                raise ContractMismatch(
                    f"{folder} holds {there}, not {share}; choose another folder"
                )

    def require(self, theirs: Stamp, shard: Path) -> None:
        """ContractMismatch for a shard of another store."""
        if not any(theirs == one for one in (self.stamp, *self.former)):
            self.stamp.require(theirs, shard)


def read_labels(folder: Path | str) -> Labels:
    """All labels of a store, or of an ensemble of stores, in memory.

    Members of an ensemble are brought to mean 0 and standard deviation 1 for each query, over
    the passages that all members labelled, and summed with their weights.
    DataError: no labels there, a damaged shard, a pair with two labels of the same texts.
    ContractMismatch: a shard of another store.
    """
    folder = Path(folder)
    if (folder / ENSEMBLE).is_file():
        return _read_ensemble(folder)
    manifest = Manifest.read(folder)
    scores: dict[str, dict[str, float]] = {}
    texts: dict[str, dict[str, int]] = {}
    for path in shard_files(folder):
        query_ids, passage_ids, values, digests = read_shard(path, manifest)
        rows = zip(query_ids, passage_ids, values.tolist(), digests.tolist(), strict=True)
        for query_id, passage_id, score, text in rows:
            row, known = scores.setdefault(query_id, {}), texts.setdefault(query_id, {})
            if known.get(passage_id) == text:
                raise _two_labels(path, query_id, passage_id)
            row[passage_id], known[passage_id] = score, text
    return Labels(scores, (manifest.stamp,), (texts,))


def open_labels(
    folder: Path, scale: float = 1.0, *, small: int = SMALL_BYTES
) -> Labels | LabelsOnDisk:
    """A store's labels times `scale`: in memory where they are few or an ensemble."""
    if (folder / ENSEMBLE).is_file():
        return read_labels(folder).scaled(scale)
    manifest = Manifest.read(folder)
    shards = _shards(folder)
    if sum(entry.stat().st_size for entry in shards) < small:
        return read_labels(folder).scaled(scale)
    return LabelsOnDisk(_index(folder, manifest, shards), manifest.stamp, scale)


def open_index(folder: Path) -> LabelIndex:
    """Where the labels of a store are. Errors are those of `read_labels`, of a store alone."""
    return _index(folder, Manifest.read(folder))


def read_stamp(folder: Path) -> Stamp:
    """Whose labels a store holds. DataError: no store."""
    return Manifest.read(folder).stamp


def labels_input(folder: Path) -> Input:
    """What is in a store or an ensemble, and whose. DataError: no labels there."""
    return Input(_labels_digest(folder), str(folder))


def _labels_digest(folder: Path) -> str:
    if (folder / ENSEMBLE).is_file():
        members = _members(folder)
        return lines_digest(f"{w!r} {_labels_digest(folder / n)}" for n, w in members.items())
    stamp, shards = Manifest.read(folder).stamp, shard_files(folder)
    whose = f"{stamp.collection}\n{stamp.teacher}\n{stamp.revision}\n{stamp.fingerprint}"
    return lines_digest([whose, *file_digests(shards)])


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
    return Labels(
        scores,
        tuple(s for m in members for s in m.stamps),
        tuple(t for m in members for t in m.texts),
    )


def write_ensemble(folder: Path, members: Mapping[str, float]) -> None:
    """Declare the stores in these subfolders, with their weights, to be one teacher."""
    if (folder / MANIFEST).exists():
        raise DataError.at(folder, None, "holds labels itself; choose another folder")
    write_json(folder / ENSEMBLE, {"format": FORMAT, "members": dict(members)})


def _read_ensemble(folder: Path) -> Labels:
    declared = _members(folder)
    members = [read_labels(folder / name) for name in declared]
    return ensemble(members, list(declared.values()))


def _members(folder: Path) -> dict[str, float]:
    """Subfolder → weight."""
    declared = read_json(folder / ENSEMBLE).get("members")
    if not isinstance(declared, dict) or not declared:
        raise DataError.at(folder / ENSEMBLE, None, "names no members")
    for name, weight in declared.items():
        inside(folder, name)
        if isinstance(weight, bool) or not isinstance(weight, int | float):
            problem = f"the weight of {excerpt(name)} must be a number"
            raise DataError.at(folder / ENSEMBLE, None, problem)
        if not abs(weight) <= MOST_WEIGHT:
            problem = f"the weight of {excerpt(name)} is beyond {MOST_WEIGHT:g}"
            raise DataError.at(folder / ENSEMBLE, None, problem)
    return {name: float(weight) for name, weight in declared.items()}


def _update(folder: Path, change: Mapping[str, Any]) -> None:
    """None takes an entry out."""
    path = folder / MANIFEST
    values = {**read_json(path), **change}
    write_json(path, {key: value for key, value in values.items() if value is not None})


def clear_failures(folder: Path) -> list[str]:
    """So that they are tried again: the names of what is removed, in this order."""
    leaves = {one.leaf for one in read_failures(folder) if one.leaf is not None}
    paths = [*(_shard_path(folder, leaf) for leaf in sorted(leaves)), folder / FAILED]
    for path in paths:
        path.unlink(missing_ok=True)
    return [path.name for path in paths]


def _shard_path(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:06d}.parquet"


def shard_number(path: Path) -> int:
    return int(path.stem.rpartition("-")[2])


def is_shard(name: str) -> bool:
    """Whether a file is a shard, by its name."""
    return _SHARD.fullmatch(name) is not None


def is_of_store(name: str) -> bool:
    """Whether a file belongs to a store, by its name."""
    return name in (MANIFEST, FAILED) or is_shard(name)


def shard_files(folder: Path) -> list[Path]:
    """In the order of their numbers."""
    return [folder / entry.name for entry in _shards(folder)]


def _shards(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        found = [(int(m[1]), e) for e in entries if (m := _SHARD.fullmatch(e.name))]
    return [entry for _, entry in sorted(found, key=itemgetter(0))]


def _signatures(entries: Sequence[os.DirEntry[str]]) -> dict[str, str]:
    return {entry.name: signature(entry) for entry in entries}


def _index(
    folder: Path, manifest: Manifest, entries: Sequence[os.DirEntry[str]] | None = None
) -> LabelIndex:
    """The index of a store as it is now; kept in the cache where it took long to make."""
    shards = _signatures(_shards(folder) if entries is None else entries)
    index, lacking = load(folder, shards)
    names = list(shards)
    for start in range(0, len(lacking), _SHARDS_AT_ONCE):
        some = lacking[start : start + _SHARDS_AT_ONCE]
        _add(index, [folder / name for name in some], manifest)
        if index.behind >= _FLUSHED_ROWS:
            index.save(folder, {n: shards[n] for n in names[: names.index(some[-1]) + 1]})
    if index.behind >= KEPT_ROWS:
        index.save(folder, shards)
    return index


def _add(index: LabelIndex, paths: Sequence[Path], manifest: Manifest) -> None:
    shards = [read_shard(path, manifest) for path in paths]
    query_ids = [i for shard in shards for i in shard[0]]
    passage_ids = [i for shard in shards for i in shard[1]]
    keys = query_keys(query_ids), id_keys(passage_ids)
    rows = Rows.of(
        *keys, np.concatenate([s[2] for s in shards]), np.concatenate([s[3] for s in shards])
    )
    if len(rows) != len(query_ids) and len(paths) > 1:  # of a pair, only the last row would be seen
        for path in paths:
            _add(index, [path], manifest)
        return
    try:
        new = index.count_new(rows)
    except TwoLabelsError as error:
        at = np.flatnonzero((keys[0] == error.args[0]) & (keys[1] == error.args[1]))[-1]
        ends = np.cumsum([len(shard[0]) for shard in shards])
        path = paths[int(np.searchsorted(ends, at, side="right"))]
        raise _two_labels(path, query_ids[at], passage_ids[at]) from None
    if len(rows) != len(query_ids):
        pairs = list(zip(query_ids, passage_ids, strict=True))
        raise _two_labels(paths[0], *next(p for i, p in enumerate(pairs) if p in pairs[:i]))
    index.add(rows, new)


def _two_labels(path: Path, query_id: str, passage_id: str) -> DataError:
    return DataError.at(
        path,
        None,
        f"query {query_id!r}, passage {passage_id!r} has two labels of the same texts; delete the "
        "shard that does not belong here",
    )


def _pair_keys(pairs: Sequence[PairId]) -> tuple[Keys, Keys]:
    return query_keys([q for q, _ in pairs]), id_keys(p for _, p in pairs)


def _types() -> dict[str, Any]:
    """The Arrow types of COLUMNS."""
    import pyarrow as pa

    return dict(zip(COLUMNS, (pa.string(), pa.string(), pa.float32(), pa.uint64()), strict=True))


def write_shard(
    target: Path, pairs: Sequence[PairId], scores: Scores, texts: Keys, stamp: Stamp
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = ([q for q, _ in pairs], [p for _, p in pairs], scores, texts)
    arrays = [pa.array(c, t) for c, t in zip(columns, _types().values(), strict=True)]
    about = {"dear": json.dumps(stamp.to_dict(), sort_keys=True)}
    table = pa.table(arrays, names=COLUMNS).replace_schema_metadata(about)
    with atomic_path(target) as path:
        pq.write_table(
            table,
            path,
            compression="zstd",
            write_page_checksum=True,
            # of the other columns hardly a value comes again: 16 bytes a row instead of 21
            use_dictionary=["query_id"],
        )


def rewrite_shard(path: Path, pairs: Sequence[PairId], scores: Scores, texts: Keys) -> None:
    """A shard with these rows alone, under the stamp that it has; none where there are no rows."""
    import pyarrow.parquet as pq

    if not pairs:
        path.unlink()
        return
    stamp = Stamp.of(json.loads(pq.read_schema(path).metadata[b"dear"]))
    write_shard(path, pairs, scores, texts, stamp)


def read_shard(path: Path, manifest: Manifest) -> tuple[list[str], list[str], Scores, Keys]:
    """COLUMNS of a shard that belongs to this store."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            check_parquet(path, file.metadata)
            table = file.read()
        theirs = Stamp.of(json.loads((table.schema.metadata or {})[b"dear"]))
        types = _types()
        if table.schema.names == list(COLUMNS[:3]):  # as an earlier version wrote it
            unknown = pa.array(np.full(table.num_rows, UNKNOWN), types["texts"])
            table = table.append_column("texts", unknown)
        for name in COLUMNS:
            if table.schema.field(name).type != types[name]:
                raise ValueError(f"column {name} is {table.schema.field(name).type}")
        query_ids, passage_ids = (table.column(name).to_pylist() for name in COLUMNS[:2])
        scores, texts = (table.column(name).to_numpy() for name in COLUMNS[2:])
        for name in COLUMNS[:2]:
            if table.column(name).null_count:
                raise ValueError(f"column {name} has empty places")
            if pc.any(pc.match_substring_regex(table.column(name), HARMFUL_IN_ID)).as_py():
                raise ValueError(f"column {name} holds control characters")
    except (
        *(pa.ArrowException, OSError, KeyError, TypeError, ValueError, RecursionError),
    ) as error:
        raise DataError.at(
            path, None, f"the shard is damaged, delete it and label again: {error}"
        ) from None
    manifest.require(theirs, path)
    return query_ids, passage_ids, scores, texts
