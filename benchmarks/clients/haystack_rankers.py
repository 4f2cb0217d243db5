"""Haystack's rankers for Cohere and Jina."""

import asyncio

from common import MODEL, QUERY, TOP, Call, installed, run
from haystack import Document
from haystack.utils import Secret
from haystack_integrations.components.rankers.cohere import CohereRanker
from haystack_integrations.components.rankers.jina import JinaRanker


def cohere(address, key):
    secret = Secret.from_token(key)
    return CohereRanker(model=MODEL, api_key=secret, api_base_url=address + "/cohere", top_k=TOP)


def jina(address, key):
    secret = Secret.from_token(key)
    url = address + "/jina/v1/rerank"
    return JinaRanker(model=MODEL, api_key=secret, top_k=TOP, base_url=url)


def ranking(make, in_a_loop=False):
    def ranks(address, key, documents):
        ranker = make(address, key)
        given = [Document(content=one) for one in documents]
        if in_a_loop:
            found = asyncio.run(ranker.run_async(query=QUERY, documents=given))
        else:
            found = ranker.run(query=QUERY, documents=given)
        if make is jina and given:
            assert found["meta"]["model"]
            assert found["meta"]["usage"]["total_tokens"] > 0
        return [(documents.index(one.content), one.score) for one in found["documents"]]

    return ranks


OF_COHERE = {"refused": ["UnauthorizedError"], "empty": ["BadRequestError"]}
OF_JINA = {"refused": ["RuntimeError"], "empty": []}
run(
    [
        Call("CohereRanker.run", ranking(cohere), **OF_COHERE),
        Call("CohereRanker.run_async", ranking(cohere, True), **OF_COHERE),
        Call("JinaRanker.run", ranking(jina), **OF_JINA),
        Call("JinaRanker.run_async", ranking(jina, True), **OF_JINA),
    ],
    installed("haystack-ai", "cohere-haystack", "jina-haystack"),
)
