"""Models that read query and passage apart: each text once, then a comparison."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from dear.records import PairRead
from dear.scoring.batching import Progress
from dear.scoring.encoding import Encoded, Pair
from dear.scoring.queue import Scored

R = TypeVar("R")
"""What a text becomes: a vector, or weights of terms."""
R_co = TypeVar("R_co", covariant=True)


class Represent(Protocol[R_co]):
    def __call__(
        self,
        texts: Sequence[str],
        encoded: Sequence[Encoded],
        progress: Progress | None,
        total: int | None,
    ) -> Iterable[R_co]:
        """In the order of `texts`; progress in proportion to `total`, their number where None."""
        ...


class DualScorer(Generic[R]):
    """Scores pairs by what their texts become.

    encode: texts, prompts included, to tokens.
    compare: float32 (n,) of n queries and their n passages.
    prepared: text → what it became, of `prepare`.
    """

    def __init__(
        self,
        *,
        encode: Callable[[Sequence[str]], list[Encoded]],
        represent: Represent[R],
        compare: Callable[[Sequence[R], Sequence[R]], NDArray[np.float32]],
        query_prompt: str,
        passage_prompt: str,
    ) -> None:
        self._encode, self._represent, self._compare = encode, represent, compare
        self._prompts = query_prompt, passage_prompt
        self.prepared: dict[str, R] = {}

    def prepare(self, pairs: Sequence[Pair], progress: Progress | None = None) -> None:
        """Read every text of `pairs` and keep what it becomes, so that each is read once.

        A labelling job calls this with all its pairs, done or not: batches, and so the last bits
        of every score, are the same when a killed job goes on. progress counts texts.
        """
        new = [text for text in self._texts(pairs) if text not in self.prepared]
        found = self._represent(new, self._encode(new), progress, None)
        for text, one in zip(new, found, strict=True):
            # of two threads that prepare a text the first one counts, for all calls to come
            self.prepared.setdefault(text, one)

    def score_read(self, pairs: Sequence[Pair], progress: Progress | None = None) -> Scored:
        """float32 (n,) scores, with what was read of each pair where all of its texts were read
        here.

        Each text of the call is read once, those that were prepared not at all. What earlier
        calls read is not kept: a text's last bits are those of its batch, and a score must not
        depend on who scored what before.
        """
        if not pairs:
            return Scored(scores=np.empty(0, dtype=np.float32))
        texts = self._texts(pairs)
        known = {text: self.prepared[text] for text in texts if text in self.prepared}
        new = [text for text in texts if text not in known]
        encoded = self._encode(new)
        known.update(zip(new, self._represent(new, encoded, progress, len(pairs)), strict=True))
        if not new and progress is not None:
            progress(len(pairs), len(pairs))
        before, behind = self._prompts
        scores = self._compare(
            [known[before + query] for query, _ in pairs],
            [known[behind + passage] for _, passage in pairs],
        )
        return Scored(scores=scores, read=self._read(pairs, dict(zip(new, encoded, strict=True))))

    def cut_pairs(self, pairs: Sequence[Pair]) -> list[bool]:
        """Which pairs have a passage that is longer than the model reads it."""
        return [one.cut for one in self._encode([self._prompts[1] + p for _, p in pairs])]

    def _texts(self, pairs: Sequence[Pair]) -> list[str]:
        """Each different text, with its prompt."""
        before, behind = self._prompts
        both = ((before + query, behind + passage) for query, passage in pairs)
        return list(dict.fromkeys(text for pair in both for text in pair))

    def _read(self, pairs: Sequence[Pair], encoded: dict[str, Encoded]) -> list[PairRead]:
        """Nothing where a text was prepared."""
        before, behind = self._prompts
        read = []
        for query, passage in pairs:
            a, b = encoded.get(before + query), encoded.get(behind + passage)
            if a is None or b is None:
                return []
            read.append(PairRead(len(a) + len(b), b.cut))
        return read


Vector = NDArray[np.float32]


def _dot(a: Vector, b: Vector) -> float:
    return float(a @ b)


SIMILARITIES: dict[str, Callable[[Vector, Vector], float]] = {
    "cosine": _dot,  # of vectors of length 1
    "dot": _dot,
    "euclidean": lambda a, b: -float(np.linalg.norm(a - b)),
    "manhattan": lambda a, b: -float(np.abs(a - b).sum()),
}
"""similarity_fn_name of sentence-transformers → the score of two embeddings, higher is better."""


def compared(
    similarity: str, queries: Sequence[Vector], passages: Sequence[Vector]
) -> NDArray[np.float32]:
    """float32 (n,): each query with its passage."""
    similar = SIMILARITIES[similarity]
    pairs = zip(queries, passages, strict=True)
    return np.array([similar(query, passage) for query, passage in pairs], dtype=np.float32)
