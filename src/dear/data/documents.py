"""Passages of documents: whose passage an id is, and a document's score as its best passage's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from dear.data.splitting import MARK
from dear.errors import ConfigError
from dear.notices import warn
from dear.records import Judgements, Ranking, Run

Documents = Mapping[str, str]
"""Passage id → document id."""

_AGGREGATES = ("max",)
"""How a document's score is made of its passages'."""


def check_aggregate(name: str | None) -> None:
    """ConfigError for one that there is not."""
    if name is not None and name not in _AGGREGATES:
        raise ConfigError(f"aggregate {name!r}: max, the best passage's score, is what there is")


def tell_of_documents(collection: str) -> None:
    """A warning for runs of passages that are measured by judgements of documents."""
    warn(
        f"{collection} holds passages of documents, and its judgements are of documents: "
        "--aggregate max of `dear rank` and `dear evaluate` ranks and measures those"
    )


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
        read=tuple(ranking.read[at] for at in kept) if ranking.read else (),
    )


def document_run(run: Run, documents: Documents | None = None) -> dict[str, Ranking]:
    """`best_passages` of every query."""
    return {query_id: best_passages(ranking, documents) for query_id, ranking in run.items()}


def passage_judgements(
    judgements: Judgements, run: Run, documents: Documents
) -> dict[str, dict[str, int]]:
    """Judgements of documents as judgements of their best passages by `run`, to train on; of their
    first passage where the run holds none. Judged passages stay as they are."""
    first: dict[str, str] = {}
    for passage_id, document in documents.items():
        first.setdefault(document, passage_id)
    found: dict[str, dict[str, int]] = {}
    for query_id, grades in judgements.items():
        best: dict[str, str] = {}
        for passage_id in run[query_id].passage_ids if query_id in run else ():
            best.setdefault(documents.get(passage_id, passage_id), passage_id)
        found[query_id] = {
            i if i in documents else best.get(i, first.get(i, i)): grade
            for i, grade in grades.items()
        }
    return found
