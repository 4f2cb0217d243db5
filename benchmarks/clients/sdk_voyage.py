"""Voyage's SDK. Its own address ends in /v1, so that ours does."""

import asyncio

import voyageai
from common import MODEL, QUERY, TOP, Call, installed, run


def sync(path):
    def ranks(address, key, documents):
        client = voyageai.Client(api_key=key, base_url=address + path)
        return _read(client.rerank(QUERY, list(documents), MODEL, top_k=TOP), documents)

    return ranks


def in_a_loop(address, key, documents):
    client = voyageai.AsyncClient(api_key=key, base_url=address + "/voyage/v1")
    asked = client.rerank(QUERY, list(documents), MODEL, top_k=TOP)
    return _read(asyncio.run(asked), documents)


def _read(found, documents):
    assert found.total_tokens > 0
    assert all(one.document == documents[one.index] for one in found.results)
    return [(one.index, one.relevance_score) for one in found.results]


ERRORS = {"refused": ["AuthenticationError"], "empty": ["InvalidRequestError"]}
run(
    [
        Call("Client.rerank", sync("/voyage/v1"), **ERRORS),
        Call("Client.rerank, shared path", sync("/v1"), **ERRORS),
        Call("AsyncClient.rerank", in_a_loop, **ERRORS),
    ],
    installed("voyageai"),
)
