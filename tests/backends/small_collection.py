"""A collection of a few short passages, and `dear rank` over it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dear.data.formats import write_beir
from dear.records import Passage, Query, Ranking

WORDS = ("ant", "bee", "cat", "dog", "elk", "fox")


def make_collection(folder: Path, queries: int, passages: int = 6) -> Path:
    """Each query has the same passages as candidates, in an order of its own."""
    found = [Passage(id=word, text=f"all about the {word}") for word in WORDS[:passages]]
    ids = [p.id for p in found]
    asked = [Query(id=f"q{i}", text=f"who has {i + 2} legs?") for i in range(queries)]
    scores = tuple(float(-i) for i in range(passages))
    run = {
        q.id: Ranking(query_id=q.id, passage_ids=tuple(ids[i:] + ids[:i]), scores=scores)
        for q, i in zip(asked, (n % passages for n in range(queries)), strict=True)
    }
    write_beir(
        folder,
        corpus=found,
        queries=asked,
        judgements={"test": {q.id: {"cat": 1} for q in asked}},
        runs={"test": {"bm25": run}},
    )
    return folder


def write_toml(path: Path, **options: Any) -> Path:
    """A file of options; strings and numbers only."""
    lines = [
        f"{k} = {str(v).lower() if isinstance(v, bool) else repr(v)}" for k, v in options.items()
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def rank_words(collection: Path, backend: str, output: Path, more: Sequence[str] = ()) -> list[str]:
    """The command, without `dear`."""
    windows = ["--window", "4", "--step", "2"]
    return ["rank", str(collection), "--run", "bm25", "--listwise", backend, *windows,
            "--output", str(output), *more]  # fmt: skip
