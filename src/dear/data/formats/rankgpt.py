"""RankGPT's json: queries with hits, a passage as one string."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from dear.data.formats.beir import check_query
from dear.data.formats.candidates import candidates_of
from dear.data.formats.lines import Source, check_id, write_lines
from dear.data.formats.rows import Row, json_line, json_rows
from dear.records import Candidates, Passage, Query

_TITLED = re.compile(r"Title: (.*?) Content: (.*)", re.DOTALL)


def read_rankgpt(path: Source) -> Iterator[Candidates]:
    """An array, or lines, of `{"query", "qid", "hits": [{"content", "qid", "docid", "score"}]}`.

    `qid` may stand in the hits only; where there is none, it is the place of the query, from 0.
    Without `docid` a passage is called QID-I, I from 0 (so does NovelEval). `content` of the form
    `Title: … Content: …` is taken apart. Hits stand best first; without `score` they get 1, 1/2,
    1/3 …  DataError: what `json_rows` names, an empty query, a query or a passage twice.
    """
    seen: set[str] = set()
    for place, row in enumerate(json_rows(path)):
        hits = row.children("hits")
        inside = hits[0].id("qid", default=str(place)) if hits else str(place)
        query = Query(id=row.id("qid", default=inside), text=row.filled("query"))
        for hit in hits:
            if hit.id("qid", default=query.id) != query.id:
                raise hit.error(f"'qid' is not the query's {query.id!r}")
        yield candidates_of(row, query, hits, _passage, seen)


def _passage(hit: Row, default_id: str) -> Passage:
    content, identifier = hit.text("content", "text"), hit.id("docid", default=default_id)
    if hit.find("title"):
        title = hit.text("title")
        text = content.removeprefix(f"Title: {title} Content: ")
        return Passage(id=identifier, title=title, text=text)
    # an empty title beside it (see _content_fields): the content only looks as if it had one
    if hit.fields.get("title") is None and (titled := _TITLED.fullmatch(content)):
        return Passage(id=identifier, title=titled[1], text=titled[2])
    return Passage(id=identifier, text=content)


def write_rankgpt(path: Path | str, candidates: Iterable[Candidates]) -> None:
    """An array, one query a line, atomically; hits in the given order, ranks from 1.

    A title goes into `content` as `Title: … Content: …`. Where that could not be taken apart
    again, `title` stands beside it as a key of its own, which other tools ignore.
    """
    write_lines(path, _array(json_line(_fields(path, one)) for one in candidates))


def _array(items: Iterable[str]) -> Iterator[str]:
    previous = None
    for item in items:
        yield "[" if previous is None else f"{previous},"
        previous = item
    if previous is not None:
        yield previous
        yield "]"


def _fields(path: Path | str, one: Candidates) -> dict[str, Any]:
    check_id(one.query.id, path, None, "query id")
    check_query(path, one.query)
    hits: list[dict[str, Any]] = []
    for rank, (passage, score) in enumerate(zip(one.passages, one.scores, strict=True), 1):
        check_id(passage.id, path, None, "passage id")
        hits.append(
            _content_fields(passage)
            | {"qid": one.query.id, "docid": passage.id, "rank": rank, "score": score}
        )
    return {"query": one.query.text, "qid": one.query.id, "hits": hits}


def _content_fields(passage: Passage) -> dict[str, Any]:
    title, text = passage.title, passage.text
    content = f"Title: {title} Content: {text}" if title else text
    titled = _TITLED.fullmatch(content)
    read = (titled[1], titled[2]) if titled else ("", content)
    return {"content": content} if read == (title, text) else {"content": content, "title": title}
