"""Label stores looked into, checked, joined and compacted, file by file."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dear.artifacts import atomic_path, check_folder, read_json, write_json
from dear.data.id_keys import id_keys
from dear.data.inputs import Keys
from dear.data.label_failures import Failure, read_failures, write_failures
from dear.data.label_index import LabelIndex, Rows, query_keys
from dear.data.labels import (
    MANIFEST,
    Manifest,
    Stamp,
    open_store,
    read_shard,
    rewrite_shard,
    shard_files,
    shard_number,
)
from dear.data.shards import Share
from dear.digests import lines_digest
from dear.errors import ConfigError, ContractMismatch, DataError


@dataclass(frozen=True, kw_only=True, slots=True)
class Store:
    """What is in a store, all of whose files were read.

    share: what it has of a job that was cut.  finished: whether that job came to its end.
    dead: rows in whose place a later one counts.  problems: what is wrong, a line each.
    digests: file → its SHA-256.  failures: pairs that could not be scored.
    """

    folder: Path
    stamp: Stamp
    share: Share | None
    finished: bool
    rows: int
    dead: int
    queries: int
    bytes: int
    digests: dict[str, str]
    problems: tuple[str, ...]
    failures: tuple[Failure, ...]

    @property
    def labels(self) -> int:
        """Rows that count."""
        return self.rows - self.dead


def look_into(folder: Path) -> Store:
    """Read a store's files, each against its checksums, the store's stamp and its share.

    DataError: no labels there.
    """
    manifest = Manifest.read(folder)
    share, problems, digests = manifest.share, list[str](), dict[str, str]()
    index, queries, rows, live = LabelIndex(), list[Keys](), 0, 0
    for path in shard_files(folder):
        digests[path.name] = _sha256(path)
        try:
            ids, passage_ids, scores, texts = read_shard(path, manifest)
        except (DataError, ContractMismatch) as error:
            problems.append(str(error))
            continue
        keys = query_keys(ids), id_keys(passage_ids)
        if share is not None:
            problems += _strangers(path, ids, share)
            index = LabelIndex()  # no other file has a query of this one
        labels = Rows.of(*keys, scores, texts)
        found, _, known = index.find(*labels.part()[:2])
        twice = len(ids) - len(labels) + int((found & (known == labels.texts)).sum())
        if twice:
            problems.append(f"{path}: {twice:,} pairs have another label of the same texts")
        new = int((~found).sum())
        index.add(labels, new)
        queries.append(np.unique(keys[0]))
        rows, live = rows + len(ids), live + new
    if share is not None and rows != share.pairs:
        problems.append(f"{folder}: {rows:,} of {share.pairs:,} pairs have a label")
    if manifest.digest not in (None, lines_digest(digests.values())) and not problems:
        problems.append(f"{folder}: the files are not those that were written")
    return Store(
        folder=folder,
        stamp=manifest.stamp,
        share=share,
        finished=manifest.digest is not None,
        rows=rows,
        dead=rows - live,
        queries=len(np.unique(np.concatenate(queries))) if queries else 0,
        bytes=sum((folder / name).stat().st_size for name in digests),
        digests=digests,
        problems=tuple(problems),
        failures=tuple(read_failures(folder)),
    )


def _strangers(path: Path, query_ids: Sequence[str], share: Share) -> list[str]:
    """A line where a file has queries that are of another leaf, or of another shard."""
    number = shard_number(path)
    wrong = np.flatnonzero(share.leaves_of(query_ids) != number)
    if len(wrong):
        return [f"{path}: query {query_ids[wrong[0]]!r} belongs to another file"]
    return [] if share.has_leaf(number) else [f"{path}: belongs to another shard than {share}"]


def differences(stores: Sequence[Store]) -> list[str]:
    """Why these are no shards of one job, each there once; a line each."""
    first = stores[0]
    found = [
        f"{store.folder}: is no shard of a job: it was labelled without --shard"
        for store in stores
        if store.share is None
    ]
    if found:
        return found
    seen: dict[int, Store] = {}
    for store in stores:
        share, whole = store.share, first.share
        assert share is not None
        assert whole is not None
        changes = str(first.stamp.inputs.changes(store.stamp.inputs))
        changes = changes or str(whole.inputs.changes(share.inputs))
        if not changes and (share.of, share.leaves) != (whole.of, whole.leaves):
            changes = f"of {whole.of} shards there, of {share.of} now"
        if changes:
            found.append(f"{store.folder}: is of another job than {first.folder} ({changes})")
            continue
        for shard in share.shards:
            if shard in seen:
                found.append(f"{store.folder}: shard {shard} is in {seen[shard].folder}, too")
            seen[shard] = store
    return found


def missing(stores: Sequence[Store]) -> list[str]:
    """The shards of the stores' job that are not there, or did not come to their end."""
    shares = [store.share for store in stores if store.share is not None]
    there = {shard for share in shares for shard in share.shards}
    lacking = [f"shard {i} is missing" for i in range(shares[0].of if shares else 0)
               if i not in there]  # fmt: skip
    return lacking + [f"{s.folder}: {s.share} is not finished" for s in stores
                      if s.share is not None and not s.finished]  # fmt: skip


def merge(stores: Sequence[Store], output: Path, *, partial: bool = False) -> Share:
    """One store of all shards: what one process would have written, file for file.

    partial: shards may be missing or unfinished.
    ConfigError: no shards of one job, or not all of them. DataError: problems in a store, labels in
    `output`, a file that changed meanwhile.
    """
    wrong = differences(stores) + ([] if partial else missing(stores))
    if wrong:
        more = f"; {len(wrong) - 1} more" if len(wrong) > 1 else ""
        hint = "" if differences(stores) else " (--partial joins what is there)"
        raise ConfigError(f"{wrong[0]}{more}{hint}")
    gaps = {f"{s.folder}: {s.rows:,} of {s.share.pairs:,} pairs have a label" for s in stores
            if s.share is not None and not s.finished}  # fmt: skip
    for problem in (p for s in stores for p in s.problems if not (partial and p in gaps)):
        raise DataError(problem)
    if (output / MANIFEST).exists():
        raise DataError.at(output, None, "holds labels; choose another folder")
    check_folder(output)
    for store in stores:
        for name, digest in store.digests.items():
            with atomic_path(output / name) as temporary:
                shutil.copyfile(store.folder / name, temporary)
                if _sha256(temporary) != digest:
                    raise DataError.at(store.folder / name, None, "changed while it was copied")
    if failures := [failure for store in stores for failure in store.failures]:
        write_failures(output, failures)
    first, *others = (s.share for s in stores if s.share is not None)
    share = first.joined(others)
    note = share.to_dict()
    if all(store.finished for store in stores):
        files = {name: digest for s in stores for name, digest in s.digests.items()}
        note["digest"] = lines_digest(files[path.name] for path in shard_files(output))
    values = [read_json(store.folder / MANIFEST) for store in stores]
    jobs = [job for one in values for job in one.get("jobs", ())]
    write_json(output / MANIFEST, {**values[0], "share": note, "jobs": jobs})
    return share


def compact(folder: Path) -> tuple[int, int]:
    """Take out the rows in whose place later ones count: (rows taken out, bytes saved).

    One file after the other, so that whoever is stopped in between leaves a store that is right.
    """
    manifest = Manifest.read(folder)
    index, dead, before = LabelIndex(), 0, 0
    with open_store(folder, manifest.stamp, manifest.share) as store:
        files = shard_files(folder)
        before = sum(path.stat().st_size for path in files)
        for path in reversed(files):
            ids, passage_ids, scores, texts = read_shard(path, manifest)
            keys = query_keys(ids), id_keys(passage_ids)
            overtaken, _, _ = index.find(*keys)
            labels = Rows.of(*keys, scores, texts)
            index.add(labels, int((~index.find(*labels.part()[:2])[0]).sum()))
            if overtaken.any():
                live = np.flatnonzero(~overtaken)
                pairs = [(ids[i], passage_ids[i]) for i in live]
                rewrite_shard(path, pairs, scores[live], texts[live])
                dead += int(overtaken.sum())
        if dead and manifest.digest is not None:
            store.finish()
        after = sum(path.stat().st_size for path in shard_files(folder))
    return dead, before - after


def _sha256(path: Path) -> str:
    # not the remembered digest: a disk that errs changes no time stamp
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
