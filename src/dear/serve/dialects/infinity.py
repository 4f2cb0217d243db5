"""infinity's rerank (michaelfeil.eu/infinity)."""

from __future__ import annotations

import time
from typing import Any

from dear.serve.asking import Answer, Ask, Problem
from dear.serve.dialects.dialect import (
    Body,
    Dialect,
    Endpoint,
    Positive,
    Query,
    Reply,
    Texts,
    new_id,
    texts_of,
)


class Rerank(Body):
    query: Query
    documents: Texts
    model: str | None = None
    return_documents: bool = False
    raw_scores: bool = False
    top_n: Positive | None = None

    def ask(self) -> Ask:
        return Ask(
            queries=[self.query],
            documents=texts_of(list(self.documents)),
            model=self.model,
            top_n=self.top_n,
            raw=self.raw_scores,
        )


class Ranked(Reply):
    relevance_score: float
    index: int
    document: str | None = None


class Usage(Reply):
    prompt_tokens: int
    total_tokens: int


class Answered(Reply):
    object: str = "rerank"
    results: list[Ranked]
    model: str
    usage: Usage
    id: str
    created: int


def _answer(body: Rerank, answer: Answer) -> Answered:
    return Answered(
        results=[
            Ranked(
                relevance_score=one.score,
                index=one.index,
                document=one.document.text if body.return_documents else None,
            )
            for one in answer.results
        ],
        model=answer.model,
        usage=Usage(prompt_tokens=answer.tokens, total_tokens=answer.tokens),
        id=new_id("infinity-"),
        created=int(time.time()),
    )


def _error(status: int, _problem: Problem, message: str) -> Any:
    return {"error": {"message": message, "type": None, "param": None, "code": status}}


INFINITY = Dialect(
    name="infinity",
    endpoints=(Endpoint(path="/rerank", body=Rerank, reply=Answered, answer=_answer),),
    error=_error,
)
