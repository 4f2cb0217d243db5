"""Answers of open-domain questions: `{"_id", "answers": […]}` lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from dear.data.formats.beir import QUERY_ID
from dear.data.formats.lines import Source, check_id, once, write_lines
from dear.data.formats.rows import json_line, json_rows
from dear.errors import DataError


def read_answers(path: Source) -> dict[str, tuple[str, ...]]:
    """Query id → the strings that answer it, any of them.

    DataError: a question twice, one without answers, an answer that is no text or is blank.
    """
    seen: set[str] = set()
    found: dict[str, tuple[str, ...]] = {}
    for row in json_rows(path):
        query_id = row.id(*QUERY_ID)
        once(seen, query_id, path, row.line, "query id")
        answers = row.items("answers")
        if not answers:
            raise row.error("'answers' is empty")
        for answer in answers:
            if not isinstance(answer, str) or not answer.strip():
                raise row.error(f"an answer must be text that is not blank, got {answer!r}")
        found[query_id] = tuple(answers)
    return found


def write_answers(path: Path | str, answers: Mapping[str, Sequence[str]]) -> None:
    """`{"_id", "answers"}` lines, atomically. DataError for what `read_answers` would refuse."""
    for query_id, strings in answers.items():
        check_id(query_id, path, None, "query id")
        if not strings or not all(s.strip() for s in strings):
            raise DataError.at(path, None, f"query {query_id!r} has no answer, or a blank one")
    write_lines(
        path, (json_line({"_id": q, "answers": list(strings)}) for q, strings in answers.items())
    )
