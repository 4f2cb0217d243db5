"""Voyage's rerank (docs.voyageai.com/reference/reranker-api)."""

from __future__ import annotations

from typing import Any

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


class VoyageRerank(Body):
    query: Query
    documents: Texts
    model: str | None = None
    top_k: Positive | None = None
    return_documents: bool = False
    truncation: bool = True

    def ask(self) -> RankRequest:
        return RankRequest(
            queries=[self.query],
            documents=texts_of(list(self.documents)),
            model=self.model,
            top_n=self.top_k,
            limits=TextLimits(whole=not self.truncation),
        )


class VoyageRanked(Reply):
    index: int
    relevance_score: float
    document: str | None = None


class VoyageUsage(Reply):
    total_tokens: int


class VoyageAnswered(Reply):
    object: str = "list"
    data: list[VoyageRanked]
    model: str
    usage: VoyageUsage


def _answer(body: VoyageRerank, answer: RankAnswer) -> VoyageAnswered:
    return VoyageAnswered(
        data=[
            VoyageRanked(
                index=one.index,
                relevance_score=one.score,
                document=one.document.text if body.return_documents else None,
            )
            for one in answer.results
        ],
        model=answer.model,
        usage=VoyageUsage(total_tokens=answer.tokens),
    )


def _error(_status: int, _problem: Problem, message: str) -> Any:
    return {"detail": message}


VOYAGE = Dialect(
    name="voyage",
    endpoints=(
        Endpoint(path="/v1/rerank", body=VoyageRerank, reply=VoyageAnswered, answer=_answer),
    ),
    error=_error,
    statuses={"invalid": 400},
)
