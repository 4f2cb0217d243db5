"""LiteLLM's rerank call, in the modes that take an address."""

import asyncio

import litellm
from common import MODEL, QUERY, TOP, Call, installed, run

litellm.suppress_debug_info = True
PATHS = {
    "cohere": "/cohere",
    "jina_ai": "",  # its path is always /v1/rerank: a prefix is dropped
    "hosted_vllm": "/vllm",
    "huggingface": "/tei",
    "infinity": "/infinity",
    "voyage": "/voyage/v1",
}


def asking(provider, in_a_loop):
    def ranks(address, key, documents):
        words = {
            "model": f"{provider}/{MODEL}",
            "query": QUERY,
            "documents": list(documents),
            "top_n": TOP,
            "return_documents": True,
            "api_base": address + PATHS[provider],
            "api_key": key,
        }
        found = asyncio.run(litellm.arerank(**words)) if in_a_loop else litellm.rerank(**words)
        assert found.id
        assert found.meta["tokens"].get("input_tokens") or found.meta["billed_units"]
        if provider != "cohere":  # whose second version returns none
            assert [one["document"]["text"] for one in found.results] == [
                documents[one["index"]] for one in found.results
            ]
        return [(one["index"], one["relevance_score"]) for one in found.results]

    return ranks


ERRORS = {"refused": ["AuthenticationError"], "empty": ["BadRequestError"]}
run(
    [
        *(Call(f"rerank, {one}", asking(one, False), **ERRORS) for one in PATHS),
        Call("arerank, cohere", asking("cohere", True), **ERRORS),
    ],
    installed("litellm"),
)
