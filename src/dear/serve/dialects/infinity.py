"""infinity's rerank (michaelfeil.eu/infinity)."""

from __future__ import annotations

import time
from typing import Any

from dear.serve.asking import Problem, RankAnswer, RankRequest
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


class InfinityRerank(Body):
    query: Query
    documents: Texts
    model: str | None = None
    return_documents: bool = False
    raw_scores: bool = False
    top_n: Positive | None = None

    def ask(self) -> RankRequest:
        return RankRequest(
            queries=[self.query],
            documents=texts_of(list(self.documents)),
            model=self.model,
            top_n=self.top_n,
            raw=self.raw_scores,
        )


class InfinityRanked(Reply):
    relevance_score: float
    index: int
    document: str | None = None


class InfinityUsage(Reply):
    prompt_tokens: int
    total_tokens: int


class InfinityAnswered(Reply):
    object: str = "rerank"
    results: list[InfinityRanked]
    model: str
    usage: InfinityUsage
    id: str
    created: int


def _answer(body: InfinityRerank, answer: RankAnswer) -> InfinityAnswered:
    return InfinityAnswered(
        results=[
            InfinityRanked(
                relevance_score=one.score,
                index=one.index,
                document=one.document.text if body.return_documents else None,
            )
            for one in answer.results
        ],
        model=answer.model,
        usage=InfinityUsage(prompt_tokens=answer.tokens, total_tokens=answer.tokens),
        id=new_id("infinity-"),
        created=int(time.time()),
    )


def _error(status: int, _problem: Problem, message: str) -> Any:
    return {"error": {"message": message, "type": None, "param": None, "code": status}}


INFINITY = Dialect(
    name="infinity",
    endpoints=(
        Endpoint(path="/rerank", body=InfinityRerank, reply=InfinityAnswered, answer=_answer),
    ),
    error=_error,
)
