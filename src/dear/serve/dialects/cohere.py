"""Cohere's rerank, versions 1 and 2 (docs.cohere.com/reference/rerank)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from dear.serve.asking import Problem, RankAnswer, RankRequest, TextLimits
from dear.serve.dialects.dialect import (
    Body,
    Dialect,
    Documents,
    Endpoint,
    Positive,
    Query,
    Reply,
    Texts,
    new_id,
    texts_of,
)

LONGEST = 4096
"""Tokens of a document that Cohere reads where nothing is said."""


class CohereV2(Body):
    model: str | None = None
    query: Query
    documents: Texts
    top_n: Positive | None = None
    max_tokens_per_doc: Positive | None = LONGEST  # LangChain sends null
    priority: Annotated[int, Field(ge=0, le=999)] = 0

    def ask(self) -> RankRequest:
        return RankRequest(
            queries=[self.query],
            documents=texts_of(list(self.documents)),
            model=self.model,
            top_n=self.top_n,
            limits=TextLimits(document=self.max_tokens_per_doc or LONGEST),
        )


class CohereV1(Body):
    model: str | None = None
    query: Query
    documents: Documents
    top_n: Positive | None = None
    rank_fields: list[str] | None = None
    return_documents: bool = False
    max_chunks_per_doc: Positive | None = None

    def ask(self) -> RankRequest:
        return RankRequest(
            queries=[self.query],
            documents=texts_of(self.documents, self.rank_fields or ("text",)),
            model=self.model,
            top_n=self.top_n,
        )


class CohereText(Reply):
    text: str


class CohereRanked(Reply):
    index: int
    relevance_score: float
    document: CohereText | None = None


class CohereVersion(Reply):
    version: str


class CohereUnits(Reply):
    search_units: int


class CohereMeta(Reply):
    api_version: CohereVersion
    billed_units: CohereUnits
    tokens: dict[str, int]
    warnings: list[str] | None = None


class CohereAnswered(Reply):
    id: str
    results: list[CohereRanked]
    meta: CohereMeta


def _answer(version: Literal["1", "2"], answer: RankAnswer, *, documents: bool) -> CohereAnswered:
    return CohereAnswered(
        id=new_id(),
        results=[
            CohereRanked(
                index=one.index,
                relevance_score=one.score,
                document=CohereText(text=one.document.text) if documents else None,
            )
            for one in answer.results
        ],
        meta=CohereMeta(
            api_version=CohereVersion(version=version),
            billed_units=CohereUnits(search_units=1),
            tokens={"input_tokens": answer.tokens, "output_tokens": 0},
            warnings=answer.warnings or None,
        ),
    )


def _error(_status: int, _problem: Problem, message: str) -> Any:
    return {"message": message, "id": new_id()}


COHERE = Dialect(
    name="cohere",
    endpoints=(
        Endpoint(
            path="/v2/rerank",
            body=CohereV2,
            reply=CohereAnswered,
            answer=lambda _body, answer: _answer("2", answer, documents=False),
        ),
        Endpoint(
            path="/v1/rerank",
            body=CohereV1,
            reply=CohereAnswered,
            answer=lambda body, answer: _answer("1", answer, documents=body.return_documents),
        ),
    ),
    error=_error,
)
