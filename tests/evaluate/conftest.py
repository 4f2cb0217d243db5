"""Real collections, read with a few lines of their own so that the oracle shares no code."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

from dear.records import Ranking

Qrels = dict[str, dict[str, int]]


@pytest.fixture(scope="session")
def load_run(shared_data: Path) -> Callable[..., dict[str, Ranking]]:
    def load(
        collection: str, name: str, *, by: Literal["score", "rank"] = "score"
    ) -> dict[str, Ranking]:
        pairs: dict[str, list[tuple[str, float]]] = {}
        path = shared_data / collection / "runs" / f"{name}.test.trec.gz"
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                query_id, _, passage_id, rank, score, _ = line.split()
                value = float(score) if by == "score" else -float(rank)
                pairs.setdefault(query_id, []).append((passage_id, value))
        return {q: Ranking.sorted(q, *zip(*ranked, strict=True)) for q, ranked in pairs.items()}

    return load


@pytest.fixture(scope="session")
def load_qrels(shared_data: Path) -> Callable[[str], Qrels]:
    def load(collection: str) -> Qrels:
        judged: Qrels = {}
        path = shared_data / collection / "qrels" / "test.tsv"
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file, delimiter="\t"):
                judged.setdefault(row["query-id"], {})[row["corpus-id"]] = int(row["score"])
        return judged

    return load
