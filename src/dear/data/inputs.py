"""Digests of what data holds: the texts of pairs, a corpus, queries, judgements, runs.

They are over content, in its order: a file that was copied, packed or written anew with the same
content has the same digest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dear.digests import Input, file_input, lines_digest, remembered
from dear.records import Candidates, Judgements, Passage, Query, Run

if TYPE_CHECKING:
    from dear.data.collection import Collection

Keys = NDArray[np.uint64]

UNKNOWN = np.uint64(0)
"""The digest of a pair whose texts were not written down; no pair has it."""

_MIX = np.uint64(0x9E3779B97F4A7C15)  # odd: different queries stay different


def text_keys(texts: Iterable[str]) -> Keys:
    """uint64 (n,): 64 bits of each text's SHA-256."""
    digests = (hashlib.sha256(t.encode("utf-8", "surrogatepass")).digest()[:8] for t in texts)
    return np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64, copy=False)


def pair_digests(queries: Keys, passages: Keys) -> Keys:
    """uint64: one digest of both texts for each pair, never UNKNOWN.

    queries, passages: the texts' keys, which broadcast against each other. Where one of the two
    texts is the same, digests differ exactly where the other text's keys do.
    """
    with np.errstate(over="ignore"):
        mixed = queries * _MIX + passages
    return np.where(mixed == UNKNOWN, np.uint64(1), mixed)


def corpus_input(collection: Collection) -> Input:
    """Every passage of a collection. Of a corpus in files it is remembered by them."""

    def compute() -> str:
        passages: Iterable[Passage] = collection.corpus.values()
        return lines_digest(part for p in passages for part in (p.id, p.title, p.text))

    if collection.pinned:
        return Input(collection.pinned, collection.name)
    digest = remembered("passages/2", collection.corpus_files, compute)
    return Input(digest, collection.name)


def queries_input(collection: Collection, queries: Mapping[str, Query]) -> Input:
    """These queries of a collection."""
    digest = lines_digest(part for q in queries.values() for part in (q.id, q.text))
    return Input(digest, collection.name)


def texts_input(collection: Collection) -> Input:
    """Every passage and every query of a collection."""
    queries = queries_input(collection, collection.queries())
    return Input(lines_digest([corpus_input(collection).digest, queries.digest]), collection.name)


def judgements_input(judgements: Judgements, name: str) -> Input:
    """All grades. name: the collection and the split."""

    def lines() -> Iterator[str]:
        for query_id, grades in judgements.items():
            yield query_id
            yield from (f"{passage_id}\t{grade}" for passage_id, grade in grades.items())
            yield ""

    return Input(lines_digest(lines()), name)


def run_input(run: Run | Path, name: str = "") -> Input:
    """A run in memory, or a run's file, to its bytes."""
    if isinstance(run, Path):
        return file_input(run, name)

    def lines() -> Iterator[str]:
        for query_id, ranking in run.items():
            yield query_id
            yield from ranking.passage_ids
            yield np.asarray(ranking.scores, dtype=np.float64).tobytes().hex()

    return Input(lines_digest(lines()), name)


def pairs_input(candidates: Sequence[Candidates], name: str) -> Input:
    """The pairs of a ranking: ids and texts, in whatever order they are ranked."""

    def lines() -> Iterator[str]:
        # by place: the texts of candidates may be read when they are asked for
        for at in sorted(range(len(candidates)), key=lambda i: candidates[i].query.id):
            one = candidates[at]
            yield one.query.id
            yield one.query.text
            for passage in sorted(one.passages, key=lambda p: p.id):
                yield passage.id
                yield passage.full_text

    return Input(lines_digest(lines()), name)
