"""Sets of reasoning data on disk: others' are read, ours are written."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dear.artifacts import write_json
from dear.characters import from_file_name
from dear.data.formats import (
    CotExample,
    Message,
    read_chat,
    read_cot,
    read_lists,
    text_id,
    write_chat,
    write_cot,
    write_lists,
)
from dear.data.formats.lines import Source, source_name
from dear.data.formats.rows import json_rows
from dear.errors import DataError
from dear.prompts.listwise import ListwisePrompt
from dear.prompts.permutations import render_permutation
from dear.prompts.reasoning import FINAL, numbered, read_window, render_answer, split_answer
from dear.reason.sample import Question
from dear.reason.select import Answer
from dear.records import ListExample, Passage, Query

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


FORMAT = "dear-reason/1"
EXAMPLES, COT, MESSAGES = "examples.jsonl", "dear-cot.jsonl", "messages.jsonl"
REPORT = "report.json"


def write_set(
    folder: Path,
    examples: Iterable[ListExample],
    prompt: ListwisePrompt,
    report: Mapping[str, Any],
    *,
    part: bool = False,
) -> None:
    """EXAMPLES, and the same as COT and MESSAGES under `prompt`; REPORT last, so that a folder
    that holds one is whole. DataError: not one example, but for a part; the report is written
    nevertheless."""
    held = list(examples)
    for name in (REPORT, *(() if held else (EXAMPLES, COT, MESSAGES))):
        with contextlib.suppress(FileNotFoundError):
            (folder / name).unlink()
    if held:
        write_lists(folder / EXAMPLES, held)
        write_cot(folder / COT, (cot(example, prompt) for example in held))
        write_chat(folder / MESSAGES, (chat(example, prompt) for example in held))
    write_json(folder / REPORT, {"format": FORMAT, **report})
    if not held and not part:
        raise DataError.at(folder, None, f"no example was kept; {REPORT} says why")


def _answer_text(example: ListExample, prompt: ListwisePrompt) -> str:
    """What the model should answer, in the form that the prompt asks for."""
    return render_answer(
        example.order,
        prompt.identifiers,
        thought=example.thought,
        heading=FINAL in prompt.after,
    )


def chat(example: ListExample, prompt: ListwisePrompt) -> Iterator[Message]:
    """The prompt's turns and the answer."""
    for role, text in prompt.render(example.query, example.passages).messages:
        yield Message(role=role, content=text)
    yield Message(role="assistant", content=_answer_text(example, prompt))


def cot(example: ListExample, prompt: ListwisePrompt) -> CotExample:
    """The same as a DeAR-COT row; turns before the last one are its history."""
    turns = list(prompt.render(example.query, example.passages).messages)
    system = turns.pop(0)[1] if turns[0][0] == "system" else ""
    spoken = [text for _, text in turns]
    return CotExample(
        system=system,
        instruction=spoken[-1],
        output=_answer_text(example, prompt),
        history=tuple(zip(spoken[:-1:2], spoken[1::2], strict=True)),
    )
