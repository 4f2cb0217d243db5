"""Text Embeddings Inference's rerank (huggingface.github.io/text-embeddings-inference)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import field_validator

from dear.serve.asking import Problem, RankAnswer, RankRequest, TextLimits
from dear.serve.dialects.dialect import (
    Body,
    Dialect,
    Endpoint,
    Positive,
    Query,
    Reply,
    Texts,
    texts_of,
)

_KINDS: dict[Problem, str] = {
    "malformed": "validation",
    "invalid": "validation",
    "empty": "empty",
    "too many documents": "validation",
    "too large": "validation",
    "too long": "validation",
    "overloaded": "overloaded",
    "unavailable": "unhealthy",
    "back end": "backend",
}


class TeiRerank(Body):
    example: ClassVar[dict[str, Any]] = {
        "query": "What eats krill?",
        "texts": ["Whales eat krill.", "Grass is green."],
    }

    query: Query
    texts: Texts
    raw_scores: bool = False
    return_text: bool = False
    truncate: bool | None = None
    truncation_direction: Literal["left", "right"] = "right"
    top_n: Positive | None = None  # Elasticsearch sends it

    @field_validator("truncation_direction", mode="before")
    @classmethod
    def _in_either_case(cls, value: Any) -> Any:
        return value.lower() if isinstance(value, str) else value

    def ask(self) -> RankRequest:
        return RankRequest(
            queries=[self.query],
            documents=texts_of(list(self.texts)),
            top_n=self.top_n,
            raw=self.raw_scores,
            limits=TextLimits(side=self.truncation_direction, whole=self.truncate is False),
        )


class TeiRanked(Reply):
    index: int
    score: float
    text: str | None = None


def _answer(body: TeiRerank, answer: RankAnswer) -> list[TeiRanked]:
    return [
        TeiRanked(
            index=one.index,
            score=one.score,
            text=one.document.text if body.return_text else None,
        )
        for one in answer.results
    ]


def _error(status: int, problem: Problem, message: str) -> Any:
    if status == 401:
        return None
    return {"error": message, "error_type": _KINDS.get(problem, "validation")}


TEI = Dialect(
    name="tei",
    endpoints=(Endpoint(path="/rerank", body=TeiRerank, reply=list[TeiRanked], answer=_answer),),
    error=_error,
    statuses={"malformed": 422, "too long": 413, "back end": 424},
)
