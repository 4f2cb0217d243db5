"""Pairs that are on every machine: what an export is checked on where no collection is named.

The functions of Python's own asyncio, found by the first paragraph of their docstrings: English
questions, judged by what they are.
"""

from __future__ import annotations

import sysconfig
from pathlib import Path

from dear.data.pydocs import build_pydocs
from dear.records import Candidates, Judgements, every_nth, gather
from dear.retrieve.bm25 import retrieve

PACKAGE = "asyncio"
LONGEST = 600
"""Characters of a passage: most are read whole under 196 tokens, some are cut under 80."""

DEPTH = 10
"""Passages of a query: its best by BM25."""


def shipped_candidates(queries: int) -> tuple[list[Candidates], Judgements]:
    """Candidates of so many queries, with their judgements. DataError: Python has no source."""
    parts = build_pydocs(Path(sysconfig.get_paths()["stdlib"]) / PACKAGE)
    corpus = {i: passage for i, passage in parts.corpus.items() if len(passage.text) <= LONGEST}
    judged = {q: grades for split in parts.judgements.values() for q, grades in split.items()}
    known = (q for q, grades in judged.items() if grades.keys() <= corpus.keys())
    asked = {q: parts.queries[q] for q in every_nth(known, queries)}
    run = retrieve(corpus, asked, top_k=DEPTH)
    candidates = [gather(ranking, asked, corpus) for ranking in run.values()]
    return candidates, {q: judged[q] for q in run}
