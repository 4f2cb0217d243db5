"""Cohere's SDK: both versions of its API, under the prefix and on the shared path."""

import asyncio

import cohere
from common import MODEL, QUERY, TOP, Call, installed, run


def v2(path):
    def ranks(address, key, documents):
        client = cohere.ClientV2(api_key=key, base_url=address + path)
        found = client.rerank(
            model=MODEL, query=QUERY, documents=documents, top_n=TOP, max_tokens_per_doc=512
        )
        return _read(found, "2")

    return ranks


def v2_async(address, key, documents):
    async def ask():
        client = cohere.AsyncClientV2(api_key=key, base_url=address + "/cohere")
        return await client.rerank(model=MODEL, query=QUERY, documents=documents, top_n=TOP)

    return _read(asyncio.run(ask()), "2")


def v1(address, key, documents):
    client = cohere.Client(api_key=key, base_url=address + "/cohere")
    found = client.rerank(
        model=MODEL,
        query=QUERY,
        documents=[{"text": one, "title": "not read"} for one in documents],
        rank_fields=["text"],
        top_n=TOP,
        return_documents=True,
    )
    assert [one.document.text for one in found.results] == [
        documents[one.index] for one in found.results
    ]
    return _read(found, "1")


def _read(found, version):
    assert found.id
    assert found.meta.api_version.version == version
    assert found.meta.billed_units.search_units == 1
    assert found.meta.tokens.input_tokens > 0
    assert not found.model_extra, found.model_extra
    return [(one.index, one.relevance_score) for one in found.results]


ERRORS = {"refused": ["UnauthorizedError"], "empty": ["BadRequestError"]}
run(
    [
        Call("ClientV2.rerank", v2("/cohere"), **ERRORS),
        Call("ClientV2.rerank, shared path", v2(""), **ERRORS),
        Call("AsyncClientV2.rerank", v2_async, **ERRORS),
        *([Call("Client.rerank", v1, **ERRORS)] if hasattr(cohere.Client, "rerank") else []),
    ],
    installed("cohere"),
)
