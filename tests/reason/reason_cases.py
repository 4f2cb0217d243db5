"""Small questions, a teacher that counts words, and texts that are hard to cut."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from dear.reason.sample import Question
from dear.records import Passage, Query


class Overlap:
    """A teacher whose score is the share of a passage's words that the query has, too."""

    name, revision, contract, fingerprint, parameters = "overlap", "1", {}, "overlap", 0

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def score(
        self, pairs: Sequence[tuple[str, str]], progress: object = None
    ) -> NDArray[np.float32]:
        self.asked += pairs
        return np.array([self._one(q, p) for q, p in pairs], dtype=np.float32)

    def _one(self, query: str, passage: str) -> float:
        words = passage.lower().split()
        return sum(w in query.lower().split() for w in words) / max(1, len(words))


def question(
    texts: Sequence[str],
    *,
    query: str = "what do otters eat",
    scores: Sequence[float] | None = None,
    grades: Sequence[int] | None = None,
) -> Question:
    return Question(
        query=Query(id="q", text=query),
        passages=tuple(Passage(id=f"p{i}", text=text) for i, text in enumerate(texts)),
        scores=None if scores is None else tuple(scores),
        grades=None if grades is None else tuple(grades),
    )


# full stops, brackets, identifiers, quotes, line breaks, scripts without spaces
PIECES = st.sampled_from(
    [
        *("Otters eat fish. ", "Dr. Smith saw it, e.g. near St. Ives. ", "[3] ", "[A]", "[2, 4] "),
        *('He said "no". ', "passage 7 says so ", "\n", "a, b; c: d ", "水獺吃魚。", "、", "?! "),
        *("vitamin C. It ", "3.14 ", "...", "word " * 40, "ก" * 50, "漢" * 200, "<b>x</b> "),
        *(
            "Final ranking: ",
            "x" * 300,
            "</think> ",
            "<answer>",
            "é ",
            "U.S. ",
            "’",
            "\u2028",
            "\t",
        ),
    ]
)
TEXTS = st.lists(PIECES | st.text(max_size=30), min_size=1, max_size=12).map("".join)
