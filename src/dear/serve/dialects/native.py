"""DeAR's own: everything that a ranker knows of its answer."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from dear.serve.asking import Problem, RankAnswer, RankRequest
from dear.serve.dialects.dialect import (
    Body,
    Dialect,
    Documents,
    Endpoint,
    Positive,
    Query,
    Reply,
    texts_of,
)


class NativeRerank(Body):
    """documents: texts, or objects with `text` and perhaps `id`, `title`, and the `score` of the
    stage before."""

    query: Query
    documents: Documents
    model: str | None = None
    top_n: Positive | None = None
    return_documents: bool = False
    raw_scores: bool = False
    min_probability: Annotated[float, Field(ge=0, le=1)] | None = None
    deadline: Annotated[float, Field(gt=0)] | None = None

    def ask(self) -> RankRequest:
        return RankRequest(
            queries=[self.query],
            documents=texts_of(self.documents, ours=True),
            model=self.model,
            top_n=self.top_n,
            raw=self.raw_scores,
            min_probability=self.min_probability,
            deadline_s=self.deadline,
        )


class NativeRanked(Reply):
    index: int
    score: float
    raw: float | None = None
    id: str | None = None
    text: str | None = None
    tokens: int | None = None
    cut: bool | None = None
    chunk: str | None = None
    chunk_number: int | None = None


class NativeUsage(Reply):
    tokens: int


class NativeAnswered(Reply):
    model: str
    scale: str
    contract: str
    map: str | None = None
    complete: bool
    scored: int
    left_out: int
    seconds: float
    usage: NativeUsage
    results: list[NativeRanked]
    warnings: list[str] | None = None


def _answer(body: NativeRerank, answer: RankAnswer) -> NativeAnswered:
    return NativeAnswered(
        model=answer.model,
        **answer.details(),
        usage=NativeUsage(tokens=answer.tokens),
        results=[
            NativeRanked(
                index=one.index,
                score=one.score,
                id=one.document.id,
                text=one.document.text if body.return_documents else None,
                **one.details(),
            )
            for one in answer.results
        ],
        warnings=answer.warnings or None,
    )


def _error(status: int, problem: Problem, message: str) -> Any:
    return {"error": {"message": message, "problem": problem, "status": status}}


NATIVE = Dialect(
    name="dear",
    endpoints=(Endpoint(path="/rerank", body=NativeRerank, reply=NativeAnswered, answer=_answer),),
    error=_error,
)
