"""A small random reranker with candidates of its own words."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "scoring"))

from tiny_models import checkpoint, words

from dear.records import Candidates, Passage, Query

CANDIDATES = [
    Candidates(
        query=Query(id=f"q{q}", text=words(4, 100 + q)),
        passages=tuple(
            Passage(id=f"p{q}.{i}", text=words(5 + 2 * i, 10 * q + i)) for i in range(8)
        ),
        scores=tuple(range(8, 0, -1)),
    )
    for q in range(3)
]
JUDGEMENTS = {f"q{q}": {f"p{q}.{i}": int(i % 3 == 0) for i in range(8)} for q in range(3)}


def reranker(folder: Path) -> Path:
    return checkpoint(folder, "bert")
