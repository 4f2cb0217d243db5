"""What Weaviate's module speaks (github.com/weaviate/reranker-transformers)."""

from __future__ import annotations

from typing import Any, ClassVar

from dear.serve.asking import Problem, RankAnswer, RankRequest
from dear.serve.dialects.dialect import Body, Dialect, Endpoint, Query, Reply, Texts, texts_of


class WeaviateRerank(Body):
    example: ClassVar[dict[str, Any]] = {
        "query": "What eats krill?",
        "documents": ["Whales eat krill.", "Grass is green."],
        "property": None,
    }

    query: Query
    documents: Texts
    property: str | None = None

    def ask(self) -> RankRequest:
        return RankRequest(queries=[self.query], documents=texts_of(list(self.documents)))


class WeaviateScored(Reply):
    document: str
    score: float


class WeaviateAnswered(Reply):
    query: str
    scores: list[WeaviateScored]


def _answer(body: WeaviateRerank, answer: RankAnswer) -> WeaviateAnswered:
    # Weaviate looks scores up by position
    in_order = sorted(answer.results, key=lambda one: one.index)
    scores = [WeaviateScored(document=one.document.text, score=one.score) for one in in_order]
    return WeaviateAnswered(query=body.query, scores=scores)


def _error(_status: int, _problem: Problem, message: str) -> Any:
    return {"error": message}


WEAVIATE = Dialect(
    name="weaviate",
    endpoints=(
        Endpoint(path="/rerank", body=WeaviateRerank, reply=WeaviateAnswered, answer=_answer),
    ),
    error=_error,
)
