"""What Weaviate's module speaks (github.com/weaviate/reranker-transformers)."""

from __future__ import annotations

from typing import Any, ClassVar

from dear.serve.asking import Answer, Ask, Problem
from dear.serve.dialects.dialect import Body, Dialect, Endpoint, Query, Reply, Texts, texts_of


class Rerank(Body):
    example: ClassVar[dict[str, Any]] = {
        "query": "What eats krill?",
        "documents": ["Whales eat krill.", "Grass is green."],
        "property": None,
    }

    query: Query
    documents: Texts
    property: str | None = None

    def ask(self) -> Ask:
        return Ask(queries=[self.query], documents=texts_of(list(self.documents)))


class Scored(Reply):
    document: str
    score: float


class Answered(Reply):
    query: str
    scores: list[Scored]


def _answer(body: Rerank, answer: Answer) -> Answered:
    # Weaviate looks scores up by position
    in_order = sorted(answer.results, key=lambda one: one.index)
    scores = [Scored(document=one.document.text, score=one.score) for one in in_order]
    return Answered(query=body.query, scores=scores)


def _error(_status: int, _problem: Problem, message: str) -> Any:
    return {"error": message}


WEAVIATE = Dialect(
    name="weaviate",
    endpoints=(Endpoint(path="/rerank", body=Rerank, reply=Answered, answer=_answer),),
    error=_error,
)
