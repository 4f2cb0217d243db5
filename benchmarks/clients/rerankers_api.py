"""rerankers' class for APIs. It looks at no status: a wrong key is a KeyError, or what an empty
body raises. Without documents it fails before it asks."""

from common import MODEL, QUERY, TOP, Call, installed, run
from rerankers import Reranker

URLS = {
    "cohere": "/cohere/v1/rerank",
    "jina": "/jina/v1/rerank",
    "voyage": "/voyage/v1/rerank",
    "text-embeddings-inference": "/tei/rerank",
}


def asking(provider):
    def ranks(address, key, documents):
        ranker = Reranker(
            MODEL,
            model_type=provider,
            api_key=key,
            url=address + URLS[provider],
            verbose=0,
        )
        found = ranker.rank(QUERY, list(documents), doc_ids=list(range(len(documents))))
        return [(one.document.doc_id, one.score) for one in found.results[:TOP]]

    return ranks


ERRORS = {"refused": ["KeyError", "JSONDecodeError"], "empty": ["IndexError"]}
run([Call(f"Reranker, {one}", asking(one), **ERRORS) for one in URLS], installed("rerankers"))
