"""vLLM's score and rerank (docs.vllm.ai, online serving)."""

from __future__ import annotations

import time
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from dear.serve.asking import Document, Problem, RankAnswer, RankRequest, Refused, TextLimits
from dear.serve.dialects.dialect import (
    Body,
    Dialect,
    Documents,
    Endpoint,
    Query,
    Reply,
    TextOrFields,
    new_id,
    texts_of,
)

_KINDS = {401: "Unauthorized", 404: "NotFoundError", 429: "TooManyRequests"}

Truncate = Annotated[int, Field(ge=-1)]


class _Limited(Body):
    model: str | None = None
    truncate_prompt_tokens: Truncate | None = None
    max_tokens_per_query: Annotated[int, Field(ge=0)] = 0
    max_tokens_per_doc: Annotated[int, Field(ge=0)] = 0
    truncation_side: Literal["left", "right"] | None = None
    use_activation: bool | None = None
    priority: int = 0

    def _limits(self) -> TextLimits:
        prompt = self.truncate_prompt_tokens
        document = self.max_tokens_per_doc or (prompt if prompt is not None and prompt > 0 else 0)
        return TextLimits(
            query=self.max_tokens_per_query or None,
            document=document or None,
            side=self.truncation_side or "right",
        )


class VllmRerank(_Limited):
    query: Query
    documents: Documents
    top_n: Annotated[int, Field(ge=0)] = 0

    def ask(self) -> RankRequest:
        return RankRequest(
            queries=[self.query],
            documents=texts_of(self.documents),
            model=self.model,
            top_n=self.top_n or None,
            raw=self.use_activation is False,
            limits=self._limits(),
        )


Side = str | list[TextOrFields]


class VllmScore(_Limited):
    """One side against another: 1 to N, or pair by pair."""

    example: ClassVar[dict[str, Any]] = {
        "text_1": "What eats krill?",
        "text_2": ["Whales eat krill.", "Grass is green."],
    }

    text_1: Side | None = None
    text_2: Side | None = None
    data_1: Side | None = None
    data_2: Side | None = None
    queries: Side | None = None
    documents: Side | None = None
    items: Side | None = None

    @model_validator(mode="after")
    def _both_sides(self) -> VllmScore:
        self._sides()
        return self

    def _sides(self) -> tuple[Side, Side]:
        second = self.documents if self.documents is not None else self.items
        for one, other in (
            (self.text_1, self.text_2),
            (self.data_1, self.data_2),
            (self.queries, second),
        ):
            if one is not None and other is not None:
                return one, other
        raise ValueError("give text_1 and text_2, data_1 and data_2, or queries and documents")

    def ask(self) -> RankRequest:
        one, other = (texts_of([side] if isinstance(side, str) else side) for side in self._sides())
        if not one or not other:
            raise Refused("empty", "there is nothing to score")
        if len(one) not in (1, len(other)):
            raise Refused("invalid", f"{len(one)} texts against {len(other)}: 1 to N, or N to N")
        return RankRequest(
            queries=[query.text for query in (one if len(one) > 1 else one * len(other))],
            documents=other,
            model=self.model,
            raw=self.use_activation is False,
            limits=self._limits(),
            in_pairs=True,
        )


class VllmText(Reply):
    text: str


class VllmRanked(Reply):
    index: int
    document: VllmText
    relevance_score: float


class VllmUsage(Reply):
    prompt_tokens: int
    total_tokens: int
    completion_tokens: int = 0


class VllmAnswered(Reply):
    id: str
    model: str
    usage: VllmUsage
    results: list[VllmRanked]


class VllmScored(Reply):
    index: int
    object: str = "score"
    score: float


class VllmAnsweredScores(Reply):
    id: str
    object: str = "list"
    created: int
    model: str
    data: list[VllmScored]
    usage: VllmUsage


def _usage(answer: RankAnswer) -> VllmUsage:
    return VllmUsage(prompt_tokens=answer.tokens, total_tokens=answer.tokens)


def _text(document: Document) -> VllmText:
    return VllmText(text=document.text)


def _ranked(_body: VllmRerank, answer: RankAnswer) -> VllmAnswered:
    return VllmAnswered(
        id=new_id("rerank-"),
        model=answer.model,
        usage=_usage(answer),
        results=[
            VllmRanked(index=one.index, document=_text(one.document), relevance_score=one.score)
            for one in answer.results
        ],
    )


def _scored(_body: VllmScore, answer: RankAnswer) -> VllmAnsweredScores:
    return VllmAnsweredScores(
        id=new_id("score-"),
        created=int(time.time()),
        model=answer.model,
        data=[VllmScored(index=one.index, score=one.score) for one in answer.results],
        usage=_usage(answer),
    )


def _error(status: int, _problem: Problem, message: str) -> Any:
    kind = _KINDS.get(status, "BadRequestError" if status < 500 else "InternalServerError")
    return {"error": {"message": message, "type": kind, "param": None, "code": status}}


VLLM = Dialect(
    name="vllm",
    endpoints=(
        *(
            Endpoint(path=path, body=VllmRerank, reply=VllmAnswered, answer=_ranked)
            for path in ("/rerank", "/v1/rerank", "/v2/rerank")
        ),
        *(
            Endpoint(path=path, body=VllmScore, reply=VllmAnsweredScores, answer=_scored)
            for path in ("/score", "/v1/score")
        ),
    ),
    error=_error,
    statuses={"invalid": 400},
)
"""`param` is null in vLLM's own errors, too."""
