"""What a dialect is, and what several of them share."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from dear.serve.asking import STATUS, Document, Problem, RankAnswer, Refused


class Body(BaseModel):
    """A request; a dialect's own have `ask()`. Fields that are not known are let through: clients
    send more than servers read."""

    model_config = ConfigDict(extra="ignore", strict=False)

    example: ClassVar[dict[str, Any]] = {
        "query": "What eats krill?",
        "documents": ["Whales eat krill.", "Grass is green."],
    }


class Reply(BaseModel):
    """An answer; what has no value is left out, as nulls break clients."""

    model_config = ConfigDict(extra="allow")


Texts = Annotated[list[str], Field(min_length=1)]
TextOrFields = str | dict[str, Any]
"""A document: a text, or an object with one under `text`."""
Documents = Annotated[list[TextOrFields], Field(min_length=1)]
Positive = Annotated[int, Field(ge=1)]
Query = Annotated[str, Field(min_length=1)]


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A path of a dialect. body: what is posted.  reply: the shape of an answer.  answer: makes it,
    of the body that was posted."""

    path: str
    body: type[Body]
    reply: Any
    answer: Callable[[Any, RankAnswer], Any]


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """A wire format. error: (status, message) to a body, None for an empty one.  statuses: where
    they are other than STATUS."""

    name: str
    endpoints: Sequence[Endpoint]
    error: Callable[[int, Problem, str], Any]
    statuses: Mapping[Problem, int] = field(default_factory=dict)

    def status(self, problem: Problem) -> int:
        return self.statuses.get(problem, STATUS[problem])


def texts_of(
    documents: Sequence[TextOrFields], fields: Sequence[str] = ("text",), *, ours: bool = False
) -> list[Document]:
    """ours: an object's `id`, `title` and `score` count; other services read none but the text.
    Refused for an object without a text."""
    return [_document(at, document, fields, ours) for at, document in enumerate(documents)]


def _document(at: int, document: TextOrFields, fields: Sequence[str], ours: bool) -> Document:
    if isinstance(document, str):
        return Document(text=document)
    parts = [document[name] for name in fields if isinstance(document.get(name), str)]
    if not parts:
        wanted = ", ".join(fields)
        raise Refused("invalid", f"documents.{at}: no text under {wanted}")
    text = "\n".join(parts)
    if not ours:
        return Document(text=text)
    identifier, score, title = (document.get(name) for name in ("id", "score", "title"))
    is_number = isinstance(score, int | float) and not isinstance(score, bool)
    return Document(
        text=text,
        id=None if identifier is None else str(identifier),
        title=title if isinstance(title, str) else "",
        score=float(score) if is_number and score is not None else None,
    )


def new_id(prefix: str = "") -> str:
    return prefix + (str(uuid.uuid4()) if not prefix else uuid.uuid4().hex)
