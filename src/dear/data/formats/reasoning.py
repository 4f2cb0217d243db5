"""Rows of reasoning data: ours, DeAR-COT, and the chat messages that trainers read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dear.data.formats.lines import Source, write_lines
from dear.data.formats.rows import Row, json_line, json_rows
from dear.errors import DataError, nearest
from dear.records import ListExample, Passage, Query

ROLES = ("system", "user", "assistant", "tool")


def read_lists(path: Source) -> Iterator[ListExample]:
    """`{"query_id", "query", "passages": [{"id", "title", "text"}], "order": [id, …], "thought",
    "scores", "source"}` rows, the order best first.

    `title`, `thought`, `scores` and `source` may be missing.
    """
    for row in json_rows(path):
        passages = tuple(
            Passage(id=p.id("id"), text=p.text("text"), title=p.text("title", default=""))
            for p in row.children("passages")
        )
        places = {p.id: i for i, p in enumerate(passages)}
        order = [places.get(str(identifier), -1) for identifier in row.items("order")]
        try:
            yield ListExample(
                query=Query(id=row.id("query_id"), text=row.filled("query")),
                passages=passages,
                order=tuple(order),
                thought=row.text("thought", default=""),
                scores=row.numbers("scores", len(passages)),
                source=row.text("source", default=""),
            )
        except DataError as problem:
            at_row = str(problem).startswith(f"{row.source}:")
            raise problem if at_row else row.error(str(problem)) from problem


def list_line(example: ListExample) -> str:
    """One row of `read_lists`, without the line's end."""
    fields: dict[str, Any] = {
        "query_id": example.query.id,
        "query": example.query.text,
        "passages": [{"id": p.id, "title": p.title, "text": p.text} for p in example.passages],
        "order": [example.passages[i].id for i in example.order],
        "thought": example.thought,
        "source": example.source,
    }
    if example.scores is not None:
        fields["scores"] = example.scores
    return json_line(fields)


def write_lists(path: Path | str, examples: Iterable[ListExample]) -> None:
    """The rows of `read_lists`, atomically."""
    write_lines(path, map(list_line, examples))


@dataclass(frozen=True, kw_only=True, slots=True)
class CotExample:
    """One DeAR-COT row: passages inline in `instruction`, thought and permutation in `output`.

    history: earlier turns, (user, assistant) each.
    """

    system: str = ""
    instruction: str
    input: str = ""
    output: str
    history: tuple[tuple[str, str], ...] = ()
    think: str = ""


def read_cot(path: Source) -> Iterator[CotExample]:
    """`{"system", "instruction", "input", "output", "history", "think"}` rows.

    All but `instruction` and `output` may be missing, null or empty.
    """
    for row in json_rows(path):
        yield CotExample(
            system=row.text("system", default=""),
            instruction=row.filled("instruction"),
            input=row.text("input", default=""),
            output=row.filled("output"),
            history=_history(row),
            think=row.text("think", default=""),
        )


def _history(row: Row) -> tuple[tuple[str, str], ...]:
    # some writers put "" where there is no history
    turns = row.items("history", default=()) if row.fields.get("history") else []
    for i, turn in enumerate(turns):
        pair = isinstance(turn, list) and len(turn) == 2
        if not (pair and all(isinstance(text, str) for text in turn)):
            raise row.error(f"history[{i}] must be a pair of texts, user and assistant")
    return tuple((turn[0], turn[1]) for turn in turns)


def write_cot(path: Path | str, examples: Iterable[CotExample]) -> None:
    """The same rows, all six keys, atomically. DataError: no instruction, no output."""
    write_lines(path, (json_line(_cot_fields(path, example)) for example in examples))


def _cot_fields(path: Path | str, example: CotExample) -> dict[str, Any]:
    if not example.instruction.strip() or not example.output.strip():
        raise DataError.at(path, None, "an example without instruction or output")
    return {
        "system": example.system,
        "instruction": example.instruction,
        "input": example.input,
        "output": example.output,
        "history": example.history,
        "think": example.think,
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """One turn of a chat; role: one of ROLES."""

    role: str
    content: str

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise DataError(f"unknown role {self.role!r}{nearest(self.role, ROLES)}")


def read_chat(path: Source) -> Iterator[tuple[Message, ...]]:
    """`{"messages": [{"role", "content"}, …]}` rows. DataError: no message, an unknown role."""
    for row in json_rows(path):
        turns = row.children("messages")
        if not turns:
            raise row.error("'messages' is empty")
        yield tuple(map(_message, turns))


def _message(row: Row) -> Message:
    role, content = row.filled("role"), row.text("content")
    try:
        return Message(role=role, content=content)
    except DataError as problem:
        raise row.error(str(problem)) from problem


def write_chat(path: Path | str, chats: Iterable[Iterable[Message]]) -> None:
    """The same rows, atomically. DataError: a chat without messages."""
    write_lines(path, (json_line(_chat_fields(path, chat)) for chat in chats))


def _chat_fields(path: Path | str, chat: Iterable[Message]) -> dict[str, Any]:
    messages = [{"role": message.role, "content": message.content} for message in chat]
    if not messages:
        raise DataError.at(path, None, "a chat without messages")
    return {"messages": messages}
