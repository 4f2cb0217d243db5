"""LlamaIndex's postprocessors for Cohere, Jina and TEI; none asks where there is no node."""

from common import MODEL, QUERY, TOP, Call, installed, run
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from llama_index.postprocessor.cohere_rerank import CohereRerank
from llama_index.postprocessor.jinaai_rerank import JinaRerank
from llama_index.postprocessor.tei_rerank import TextEmbeddingInference


def cohere(address, key):
    return CohereRerank(top_n=TOP, model=MODEL, api_key=key, base_url=address + "/cohere")


def jina(address, key):
    return JinaRerank(top_n=TOP, model=MODEL, api_key=key, base_url=address + "/jina/v1")


def tei(address, key):
    token = f"Bearer {key}"
    return TextEmbeddingInference(top_n=TOP, base_url=address + "/tei", auth_token=token)


def ranking(make):
    def ranks(address, key, documents):
        nodes = [NodeWithScore(node=TextNode(text=one)) for one in documents]
        found = make(address, key).postprocess_nodes(nodes, QueryBundle(QUERY))
        return [(documents.index(one.node.text), one.score) for one in found]

    return ranks


run(
    [
        Call("CohereRerank", ranking(cohere), refused=["UnauthorizedError"], empty=[]),
        Call("JinaRerank", ranking(jina), refused=["RuntimeError"], empty=[]),
        # it looks at no status, and TEI's 401 has no body
        Call("TextEmbeddingInference", ranking(tei), refused=["JSONDecodeError"], empty=[]),
    ],
    installed(
        "llama-index-core",
        "llama-index-postprocessor-cohere-rerank",
        "llama-index-postprocessor-jinaai-rerank",
        "llama-index-postprocessor-tei-rerank",
        "cohere",
    ),
)
