"""What a client asks and what it is told, whatever its dialect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

Problem: TypeAlias = Literal[
    "malformed",  # no JSON
    "invalid",  # JSON of another shape
    "empty",  # nothing to rank
    "too many documents",
    "too large",  # bytes
    "too long",  # tokens, where the client forbids to cut
    "unauthorised",
    "unknown model",
    "not found",
    "wrong method",
    "overloaded",
    "timeout",
    "unavailable",  # no memory, or shutting down
    "back end",
]

STATUS: Mapping[Problem, int] = {
    "malformed": 400,
    "invalid": 422,
    "empty": 400,
    "too many documents": 413,
    "too large": 413,
    "too long": 400,
    "unauthorised": 401,
    "unknown model": 404,
    "not found": 404,
    "wrong method": 405,
    "overloaded": 429,
    "timeout": 408,
    "unavailable": 503,
    "back end": 500,
}
"""Where a dialect has no other."""


class Refused(Exception):
    """A request that is not answered. retry_after: seconds."""

    def __init__(self, problem: Problem, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.problem, self.message, self.retry_after = problem, message, retry_after


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """score: of the stage before, for models that add it."""

    text: str
    id: str | None = None
    title: str = ""
    score: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class TextLimits:
    """Tokens of a query and of a document, beside the model's own limits; the end is cut, or the
    beginning on side "left". whole: nothing may be cut, or the request is refused."""

    query: int | None = None
    document: int | None = None
    side: Literal["left", "right"] = "right"
    whole: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class RankRequest:
    """queries: one, or one for each document, which are then scored in pairs and not sorted.

    raw: the model's own scores, on no scale.  top_n: all where None.
    """

    queries: Sequence[str]
    documents: Sequence[Document]
    model: str | None = None
    top_n: int | None = None
    raw: bool = False
    limits: TextLimits = field(default_factory=TextLimits)
    in_pairs: bool = False
    min_probability: float | None = None
    deadline_s: float | None = None

    @property
    def characters(self) -> int:
        """What a model has to read, roughly."""
        queries = sum(map(len, self.queries))
        if not self.in_pairs:
            queries *= len(self.documents)
        return queries + sum(len(document.text) for document in self.documents)


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """One document.

    index: its position in the request.  score: 0 where a deadline came first.  raw: the model's
    own score, None then.  tokens, cut: of the pair as it was read, None where the model does not
    say.  chunk: the passage of it that gave the score, where documents are read in passages.
    """

    index: int
    score: float
    raw: float | None
    document: Document
    tokens: int | None = None
    cut: bool | None = None
    chunk: str | None = None
    chunk_number: int | None = None

    @property
    def scored(self) -> bool:
        return self.raw is not None

    def details(self) -> dict[str, Any]:
        found = {
            "raw": self.raw,
            "tokens": self.tokens,
            "cut": self.cut,
            "chunk": self.chunk,
            "chunk_number": self.chunk_number,
        }
        return {key: value for key, value in found.items() if value is not None}


@dataclass(frozen=True, kw_only=True, slots=True)
class RankAnswer:
    """results: best first, or in the order of pairs.  scale: of `score`.  scored: documents that
    were, of `asked`; the rest follows in the order given.  left_out: below the least probability.
    """

    model: str
    results: Sequence[Result]
    scale: str
    contract: str
    map: str | None
    scored: int
    asked: int
    tokens: int
    cut: int
    left_out: int
    seconds: float

    @property
    def complete(self) -> bool:
        return self.scored == self.asked

    @property
    def warnings(self) -> list[str]:
        found = []
        if not self.complete:
            found.append(
                f"the deadline came first: {self.scored} of {self.asked} documents are scored, "
                "the others follow in the order given"
            )
        if self.cut:
            found.append(f"{self.cut} of {self.asked} documents are longer than the model reads")
        return found

    @property
    def headers(self) -> dict[str, str]:
        """What every answer says of itself, in every dialect."""
        found = {
            "x-dear-model": self.model.encode("ascii", "backslashreplace").decode(),
            "x-dear-scale": self.scale,
            "x-dear-contract": self.contract,
            "x-dear-complete": str(self.complete).lower(),
            "x-dear-scored": f"{self.scored}/{self.asked}",
            "x-dear-cut": str(self.cut),
        }
        return found if self.map is None else {**found, "x-dear-map": self.map}

    def details(self) -> dict[str, Any]:
        """The same for a body."""
        found = {
            "scale": self.scale,
            "contract": self.contract,
            "map": self.map,
            "complete": self.complete,
            "scored": self.scored,
            "left_out": self.left_out,
            "seconds": round(self.seconds, 6),
        }
        return {key: value for key, value in found.items() if value is not None}
