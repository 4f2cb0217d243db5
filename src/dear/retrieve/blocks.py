"""Passages as vectors on disk, in blocks, and exact search through them.

A block is a file named by the digest of its texts, in a folder named by the digest of the model
that encoded them: what is there is not encoded again, and a changed text changes the name of its
block. A killed job loses the block at work. Blocks that no collection needs any more stay until
the folder is removed, which may be done at any time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from dear.artifacts import atomic_path, cache_folder, write_json
from dear.digests import Input, Inputs, lines_digest, text_digest
from dear.errors import DataError
from dear.records import Passage, Query, Ranking
from dear.retrieve.table import require_top_k
from dear.scoring.batching import Progress, in_chunks
from dear.scoring.opening import PairModel

FORMAT = "dear-vectors/1"

BLOCK = 1024
"""Passages in a block."""

SCORES = 1 << 24
"""Scores that are held at once, 64 MiB, unless one block has more."""

QUERIES = 1024
"""Queries for which the corpus is read once."""

Block = TypeVar("Block")


class Encoder(Protocol[Block]):
    """Texts to vectors, vectors to files, and the scores of queries with a block of passages.

    suffix: of a block's file.  inputs: what the vectors depend on beside the texts.  values: the
    same for people.
    """

    @property
    def name(self) -> str: ...
    @property
    def suffix(self) -> str: ...
    @property
    def inputs(self) -> Mapping[str, Input]: ...
    @property
    def values(self) -> Mapping[str, Any]: ...

    def encode_queries(self, texts: Sequence[str]) -> Block:
        """BackendError for a vector that is not finite; so in `encode_passages`."""
        ...

    def encode_passages(self, texts: Sequence[str], progress: Progress | None = None) -> Block: ...

    def save(self, path: Path, block: Block) -> None: ...

    def load(self, path: Path, rows: int) -> Block:
        """OSError, ValueError or EOFError for a file that holds no block of so many passages."""
        ...

    def scores(self, queries: Block, block: Block) -> NDArray[np.float32]:
        """(queries, passages); -inf for a passage that does not count as found."""
        ...


def model_values(model: PairModel) -> dict[str, Any]:
    """What a run's note says of the model that encodes."""
    return {
        model.name: {
            "revision": model.revision,
            "contract": model.contract,
            "parameters": model.parameters,
        }
    }


class BlockIndex(Generic[Block]):
    """A corpus as vectors of one encoder, ready to be searched many times.

    corpus: passage id → passage; the id that counts is the mapping's.
    folder: where blocks are kept, the cache folder if not given; each model has one of its own
        below it.
    progress: called with (passages done, passages in all) while they are encoded.
    encoded: passages that were encoded now, not found on disk.
    DataError for an empty corpus, or a folder that cannot be written.
    """

    def __init__(
        self,
        corpus: Mapping[str, Passage],
        encoder: Encoder[Block],
        *,
        folder: Path | None = None,
        progress: Progress | None = None,
    ) -> None:
        if not corpus:
            raise DataError(f"{encoder.name}: the corpus has no passages")
        self.encoder = encoder
        self.passage_ids: tuple[str, ...] = tuple(corpus)
        self.encoded = 0
        self.name = encoder.name
        self.inputs, self.values = encoder.inputs, encoder.values
        made_by = Inputs(encoder.inputs)
        self.folder = (folder or cache_folder("vectors")) / text_digest(
            f"{FORMAT} {made_by.digest}"
        )
        note = self.folder / "model.json"
        if not note.is_file():
            write_json(note, {"format": FORMAT, "name": encoder.name, "inputs": made_by.to_dict()})
        self._files: list[tuple[Path, int]] = []
        self._latest: tuple[list[str], Block] | None = None
        for passages in in_chunks(corpus.values(), BLOCK):
            done = sum(rows for _, rows in self._files)
            texts = [passage.full_text for passage in passages]
            path = self.folder / f"{lines_digest(texts)}{encoder.suffix}"
            if self._read(path, len(texts)) is None:
                self._write(path, texts, _after(done, len(corpus), progress))
                self.encoded += len(texts)
            self._files.append((path, len(texts)))
            if progress is not None:
                progress(done + len(texts), len(corpus))

    def search(
        self,
        queries: Mapping[str, Query],
        top_k: int = 100,
        *,
        progress: Progress | None = None,
    ) -> dict[str, Ranking]:
        """Query id → the best `top_k` passages, in the order of `queries`; ties fall to the greater
        id. A query that finds nothing has no entry.

        progress: called with (queries done, queries in all).
        """
        require_top_k(self.encoder.name, top_k)
        run: dict[str, Ranking] = {}
        done = 0
        for asked in in_chunks(queries.items(), QUERIES):
            vectors = self._encoded([query.text for _, query in asked])
            best = _Best(len(asked), top_k, self._id_order)
            for first, scores in self._scores(vectors, len(asked)):
                best.add(scores, first)
                if progress is not None:
                    seen = (first + scores.shape[1]) / len(self.passage_ids)
                    progress(done + int(seen * len(asked)), len(queries))
            done += len(asked)
            for (query_id, _), (numbers, scores) in zip(asked, best.found(), strict=True):
                if len(numbers):
                    ids = [self.passage_ids[i] for i in numbers]
                    run[query_id] = Ranking.sorted(query_id, ids, scores.tolist())
        return run

    def score_passages(
        self, queries: Mapping[str, Query], passages: Mapping[str, Sequence[str]]
    ) -> dict[str, dict[str, float]]:
        """See `Retriever`."""
        found: dict[str, dict[str, float]] = {query_id: {} for query_id in passages}
        for asked in in_chunks(passages.items(), QUERIES):
            vectors = self._encoded([queries[query_id].text for query_id, _ in asked])
            wanted: dict[int, list[tuple[int, str]]] = {}
            for row, (_, ids) in enumerate(asked):
                for i in ids:
                    wanted.setdefault(self._numbers[i] // BLOCK, []).append((row, i))
            for number, pairs in wanted.items():
                scores = self.encoder.scores(vectors, self._block(*self._files[number]))
                for row, i in pairs:
                    score = float(scores[row, self._numbers[i] - number * BLOCK])
                    found[asked[row][0]][i] = 0.0 if score == -np.inf else score
        return found

    def _encoded(self, texts: Sequence[str]) -> Block:
        """The latest queries are kept: a hybrid asks about them twice."""
        latest = self._latest
        if latest is None or latest[0] != texts:
            self._latest = latest = (list(texts), self.encoder.encode_queries(texts))
        return latest[1]

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {i: number for number, i in enumerate(self.passage_ids)}

    def _block(self, path: Path, rows: int) -> Block:
        block = self._read(path, rows)
        if block is None:
            raise DataError.at(path, None, "is gone or damaged since the index was opened")
        return block

    def _scores(self, queries: Block, number: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """(number of the first passage, scores of all queries with it and those that follow)."""
        at_once = max(1, SCORES // (number * BLOCK))
        first = 0
        for files in in_chunks(self._files, at_once):
            scores = np.hstack([self.encoder.scores(queries, self._block(*f)) for f in files])
            yield first, scores
            first += scores.shape[1]

    @cached_property
    def _id_order(self) -> NDArray[np.int64]:
        """Of each passage, its place among the ids, the greatest first."""
        ids = self.passage_ids
        order = np.empty(len(ids), dtype=np.int64)
        order[sorted(range(len(ids)), key=ids.__getitem__, reverse=True)] = np.arange(len(ids))
        return order

    def _read(self, path: Path, rows: int) -> Block | None:
        try:
            return self.encoder.load(path, rows)
        except (OSError, ValueError, EOFError):
            return None

    def _write(self, path: Path, texts: Sequence[str], progress: Progress | None) -> None:
        block = self.encoder.encode_passages(texts, progress)
        with atomic_path(path) as temporary:
            self.encoder.save(temporary, block)


def _after(done: int, total: int, progress: Progress | None) -> Progress | None:
    """A block's progress as that of the corpus."""
    return None if progress is None else lambda now, _block: progress(done + now, total)


@dataclass(slots=True)
class _Row:
    numbers: NDArray[np.int64]
    scores: NDArray[np.float32]
    least: float


class _Best:
    """The best passages of each query so far.

    id_order: of each passage, its place where scores are equal: the order is total, so that what
        is kept depends neither on blocks nor on their order.
    """

    def __init__(self, queries: int, top_k: int, id_order: NDArray[np.int64]) -> None:
        self.top_k, self.id_order = top_k, id_order
        nothing = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32)
        self.rows = [_Row(*nothing, -np.inf) for _ in range(queries)]

    def add(self, scores: NDArray[np.float32], first: int) -> None:
        """(queries, passages) scores of the passages from number `first` on."""
        for row, mine in zip(self.rows, scores, strict=True):
            new = np.flatnonzero(mine >= row.least if np.isfinite(row.least) else mine > -np.inf)
            if len(new) > self.top_k:
                # every tie with the last place stays in
                new = new[mine[new] >= np.partition(mine[new], -self.top_k)[-self.top_k]]
            if not len(new):
                continue
            numbers = np.concatenate([row.numbers, new + first])
            values = np.concatenate([row.scores, mine[new]])
            order = np.lexsort((self.id_order[numbers], -values))[: self.top_k]
            row.numbers, row.scores = numbers[order], values[order]
            if len(order) == self.top_k:
                row.least = float(row.scores[-1])

    def found(self) -> list[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """(numbers, scores) of each query, best first."""
        return [(row.numbers, row.scores) for row in self.rows]
