"""Jina's rerank (api.jina.ai/redoc)."""

from __future__ import annotations

from typing import Any

from dear.serve.asking import Problem, RankAnswer, RankRequest, TextLimits
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


class JinaRerank(Body):
    model: str | None = None
    query: Query
    documents: Documents
    top_n: Positive | None = None
    return_documents: bool = True
    max_doc_length: Positive | None = None

    def ask(self) -> RankRequest:
        return RankRequest(
            queries=[self.query],
            documents=texts_of(self.documents),
            model=self.model,
            top_n=self.top_n,
            limits=TextLimits(document=self.max_doc_length),
        )


class JinaText(Reply):
    text: str


class JinaRanked(Reply):
    index: int
    relevance_score: float
    document: JinaText | None = None


class JinaUsage(Reply):
    total_tokens: int


class JinaAnswered(Reply):
    model: str
    object: str = "list"
    usage: JinaUsage
    results: list[JinaRanked]


def _answer(body: JinaRerank, answer: RankAnswer) -> JinaAnswered:
    return JinaAnswered(
        model=answer.model,
        usage=JinaUsage(total_tokens=answer.tokens),
        results=[
            JinaRanked(
                index=one.index,
                relevance_score=one.score,
                document=JinaText(text=one.document.text) if body.return_documents else None,
            )
            for one in answer.results
        ],
    )


def _error(_status: int, _problem: Problem, message: str) -> Any:
    return {"detail": message}


JINA = Dialect(
    name="jina",
    endpoints=(Endpoint(path="/v1/rerank", body=JinaRerank, reply=JinaAnswered, answer=_answer),),
    error=_error,
)
