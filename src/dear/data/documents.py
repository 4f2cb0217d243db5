"""Passages of documents: whose passage an id is, and a document's score as its best passage's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from dear.data.splitting import MARK
from dear.errors import ConfigError
from dear.records import Ranking, Run

Documents = Mapping[str, str]
"""Passage id → document id."""

_AGGREGATES = ("max",)
"""How a document's score is made of its passages'."""


def check_aggregate(name: str | None) -> None:
    """ConfigError for one that there is not."""
    if name is not None and name not in _AGGREGATES:
        raise ConfigError(f"aggregate {name!r}: max, the best passage's score, is what there is")


def document_of(passage_id: str, documents: Documents | None = None) -> str:
    """The document that a passage is of: by the mapping, or without one by the id (`DOC#3` is of
    `DOC`). What is no passage of a document stands for itself."""
    if documents is not None:
        return documents.get(passage_id, passage_id)
    document, mark, number = passage_id.rpartition(MARK)
    return document if mark and document and number.isdecimal() else passage_id


def best_passages(ranking: Ranking, documents: Documents | None = None) -> Ranking:
    """A ranking of documents: each has the place, the score and the text of its best passage.

    `positions` are those of the best passages among the candidates.
    """
    best: dict[str, int] = {}
    for at, passage_id in enumerate(ranking.passage_ids):
        best.setdefault(document_of(passage_id, documents), at)
    kept = list(best.values())
    passages = ranking.passages
    return replace(
        ranking,
        passage_ids=tuple(best),
        scores=tuple(ranking.scores[at] for at in kept),
        passages=tuple(replace(passages[at], id=d) for d, at in best.items()) if passages else (),
        positions=tuple(ranking.positions[at] for at in kept) if ranking.positions else (),
    )


def document_run(run: Run, documents: Documents | None = None) -> dict[str, Ranking]:
    """`best_passages` of every query."""
    return {query_id: best_passages(ranking, documents) for query_id, ranking in run.items()}
