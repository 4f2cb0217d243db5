"""Reasoning data that others wrote, as answers: DeAR-COT rows, chat messages, and our own rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dear.characters import from_file_name
from dear.data.formats import read_chat, read_cot, read_lists, text_id
from dear.data.formats.lines import Source, source_name
from dear.data.formats.rows import json_rows
from dear.errors import DataError
from dear.prompts.permutations import render_permutation
from dear.prompts.reasoning import numbered, read_window, split_answer
from dear.reason.sample import Question
from dear.reason.select import Answer
from dear.records import Passage, Query

KINDS = {"order": "lists", "messages": "chat", "instruction": "cot"}
"""A key that only rows of this kind have → the kind."""


def read_answers(path: Source) -> Iterator[Answer]:
    """The rows of `read_lists`, `read_cot` or `read_chat`, known by the keys of the first.

    Query and passages of the last two are read from the prompt; they get ids made from their
    texts, titles stay in front of the texts, and the source is the file's name. Where a prompt
    holds none, the answer has no question. DataError: rows of no such kind.
    """
    first = next(iter(json_rows(path)))
    kind = next((KINDS[key] for key in KINDS if key in first.fields), None)
    if kind is None:
        keys = ", ".join(map(repr, KINDS))
        raise first.error(f"no reasoning data: expected one of the keys {keys}")
    name = from_file_name(source_name(path).rpartition("/")[2])
    if kind == "lists":
        return _lists(path)
    return _cots(path, name) if kind == "cot" else _chats(path, name)


def _lists(path: Source) -> Iterator[Answer]:
    for row in read_lists(path):
        yield Answer(
            question=Question(query=row.query, passages=row.passages, scores=row.scores),
            text=render_permutation(row.order),
            thought=row.thought,
            source=row.source,
        )


def _cots(path: Source, name: str) -> Iterator[Answer]:
    for row in read_cot(path):
        asked = [*(user for user, _ in row.history), row.instruction, row.input]
        yield _answer(asked, row.output, row.think, name)


def _chats(path: Source, name: str) -> Iterator[Answer]:
    for number, turns in enumerate(read_chat(path), 1):
        if turns[-1].role != "assistant":
            raise DataError.at(source_name(path), number, "the last message is no assistant's")
        asked = [turn.content for turn in turns if turn.role == "user"]
        yield _answer(asked, turns[-1].content, "", name)


def _answer(asked: Sequence[str], output: str, think: str, name: str) -> Answer:
    window = read_window("\n".join(filter(None, asked)))
    if window is None:
        return Answer(question=None, text=output, source=name)
    query, passages, kind = window
    return Answer(
        question=Question(
            query=Query(id=text_id(query), text=query),
            passages=tuple(Passage(id=text_id(text), text=text) for text in passages),
        ),
        text=output,
        thought=split_answer(output, kind) or numbered(think.strip(), kind),
        identifiers=kind,
        source=name,
    )
