"""LangChain's compressor for Cohere."""

from common import MODEL, QUERY, TOP, Call, installed, run
from langchain_cohere import CohereRerank
from langchain_core.documents import Document


def ranks(address, key, documents):
    url = address + "/cohere"
    compressor = CohereRerank(model=MODEL, cohere_api_key=key, base_url=url, top_n=TOP)
    given = [Document(one, metadata={"at": at}) for at, one in enumerate(documents)]
    found = compressor.compress_documents(given, QUERY)
    return [(one.metadata["at"], one.metadata["relevance_score"]) for one in found]


run(
    [Call("CohereRerank.compress_documents", ranks, refused=["UnauthorizedError"], empty=[])],
    installed("langchain-core", "langchain-cohere", "cohere"),
)
