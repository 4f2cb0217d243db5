"""What is measured: runs of passages by the documents that are judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from dear.data.collections import Collection
from dear.data.documents import check_aggregate, document_run, tell_of_documents
from dear.errors import ConfigError
from dear.evaluate.study import RunSource


def measured_documents(
    collection: Collection,
    sources: Sequence[RunSource],
    aggregate: str | None,
    *,
    judged: bool,
) -> list[RunSource]:
    """The runs, of documents where `aggregate` says so; one whose note says that it is of
    documents already stays as it is.

    judged: by judgements, not by answers.  ConfigError: answers are looked for in passages.
    Passages of documents without `aggregate` are warned of.
    """
    check_aggregate(aggregate)
    if aggregate is None:
        if judged and collection.documents is not None:
            tell_of_documents(collection.name)
        return list(sources)
    if not judged:
        raise ConfigError("--aggregate is about judged documents: answer@k reads passages")
    return [
        source
        if (source.origin or {}).get("aggregate")
        else replace(source, run=document_run(source.run, collection.documents))
        for source in sources
    ]
