"""rank_llm's requests: a query with candidates, each a document object."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from dear.data.formats.beir import PASSAGE_TEXT, check_query
from dear.data.formats.candidates import candidates_of
from dear.data.formats.lines import Source, check_id, write_lines
from dear.data.formats.rows import Row, json_line, json_rows
from dear.records import Candidates, Passage, Query


def read_rank_llm(path: Source) -> Iterator[Candidates]:
    """An object, an array, or lines of `{"query": {"text", "qid"}, "candidates": [{"doc", …}]}`.

    `query` and `doc` may be plain strings. A document's text is the first of `text`, `contents`,
    `content`, `segment`, `passage`, `body`. Without `qid` the query is called by its place, from
    0; without `docid` a passage QID-I, I from 0; without `score` the scores are 1, 1/2, 1/3 …
    DataError: what `json_rows` names, an empty query, a query or a passage twice.
    """
    seen: set[str] = set()
    for place, row in enumerate(json_rows(path)):
        query = _query(row, str(place))
        yield candidates_of(row, query, row.children("candidates"), _passage, seen)


def _query(row: Row, default_id: str) -> Query:
    value = row.need("query")[1]
    if isinstance(value, str):
        return Query(id=row.id("qid", default=default_id), text=row.filled("query"))
    inner = row.child(value, "query")
    return Query(id=inner.id("qid", default=default_id), text=inner.filled("text"))


def _passage(candidate: Row, default_id: str) -> Passage:
    identifier = candidate.id("docid", default=default_id)
    value = candidate.need("doc")[1]
    if isinstance(value, str):
        return Passage(id=identifier, text=value)
    doc = candidate.child(value, "doc")
    return Passage(id=identifier, title=doc.text("title", default=""), text=doc.text(*PASSAGE_TEXT))


def write_rank_llm(path: Path | str, candidates: Iterable[Candidates]) -> None:
    """Lines of requests, atomically; `title` stands in `doc` only where there is one."""
    write_lines(path, (json_line(_fields(path, one)) for one in candidates))


def _fields(path: Path | str, one: Candidates) -> dict[str, Any]:
    check_id(one.query.id, path, None, "query id")
    check_query(path, one.query)
    listed: list[dict[str, Any]] = []
    for passage, score in zip(one.passages, one.scores, strict=True):
        check_id(passage.id, path, None, "passage id")
        doc = {"title": passage.title} if passage.title else {}
        listed.append({"docid": passage.id, "score": score, "doc": doc | {"text": passage.text}})
    return {"query": {"text": one.query.text, "qid": one.query.id}, "candidates": listed}
