"""Jina's rerank (api.jina.ai/redoc)."""

from __future__ import annotations

from typing import Any

from dear.serve.asking import Answer, Ask, Problem, TextLimits
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


class Rerank(Body):
    model: str | None = None
    query: Query
    documents: Documents
    top_n: Positive | None = None
    return_documents: bool = True
    max_doc_length: Positive | None = None

    def ask(self) -> Ask:
        return Ask(
            queries=[self.query],
            documents=texts_of(self.documents),
            model=self.model,
            top_n=self.top_n,
            limits=TextLimits(document=self.max_doc_length),
        )


class Text(Reply):
    text: str


class Ranked(Reply):
    index: int
    relevance_score: float
    document: Text | None = None


class Usage(Reply):
    total_tokens: int


class Answered(Reply):
    model: str
    object: str = "list"
    usage: Usage
    results: list[Ranked]


def _answer(body: Rerank, answer: Answer) -> Answered:
    return Answered(
        model=answer.model,
        usage=Usage(total_tokens=answer.tokens),
        results=[
            Ranked(
                index=one.index,
                relevance_score=one.score,
                document=Text(text=one.document.text) if body.return_documents else None,
            )
            for one in answer.results
        ],
    )


def _error(_status: int, _problem: Problem, message: str) -> Any:
    return {"detail": message}


JINA = Dialect(
    name="jina",
    endpoints=(Endpoint(path="/v1/rerank", body=Rerank, reply=Answered, answer=_answer),),
    error=_error,
)
