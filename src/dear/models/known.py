"""Public rerankers and embedders by name: how they were trained to read, and who says so.

Names are patterns of hub ids; a folder that is called like the repository counts, too. For
everything that a folder says itself (length, activation, pooling), the folder is asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TypeVar

from dear.models.family import Source, names_of


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownReranker:
    """contract: a key of CONTRACTS, or of ZERO_SHOT_PROMPTS for a reading.
    documented: where its authors show how it is called."""

    names: tuple[str, ...]
    contract: str
    documented: str


KNOWN_RERANKERS: tuple[KnownReranker, ...] = (
    KnownReranker(
        names=(
            "cross-encoder/ms-marco-*",
            "cross-encoder/mmarco-*",
            "cross-encoder/ettin-reranker-*",
            "cross-encoder/*",
            "antoinelouis/crossencoder-*",
            "naver/trecdl22-crossencoder-*",
        ),
        contract="plain",
        documented="model cards; sentence-transformers, CrossEncoder",
    ),
    KnownReranker(
        names=("BAAI/bge-reranker-base", "BAAI/bge-reranker-large", "BAAI/bge-reranker-v2-m3"),
        contract="plain",
        documented="model cards; FlagEmbedding 1.4.2, FlagReranker",
    ),
    KnownReranker(
        names=("BAAI/bge-reranker-v2-gemma",),
        contract="bge-reranker-gemma",
        documented="model card; FlagEmbedding 1.4.2, FlagLLMReranker",
    ),
    KnownReranker(
        names=("mixedbread-ai/mxbai-rerank-*-v1",),
        contract="plain",
        documented="model cards; mxbai-rerank 0.1.6, mxbai_rerank_v1.py",
    ),
    KnownReranker(
        names=("mixedbread-ai/mxbai-rerank-*-v2",),
        contract="mxbai-rerank-v2",
        documented="mxbai-rerank 0.1.6, mxbai_rerank_v2.py",
    ),
    KnownReranker(
        names=("tomaarsen/Qwen3-Reranker-*-seq-cls",),
        contract="qwen3-reranker",
        documented="model cards",
    ),
    KnownReranker(
        names=("Qwen/Qwen3-Reranker-*",),
        contract="qwen3-reranker",
        documented="model cards",
    ),
    KnownReranker(
        names=("Alibaba-NLP/gte-reranker-modernbert-base", "*/gte-multilingual-reranker-base"),
        contract="plain",
        documented="model cards",
    ),
    KnownReranker(
        names=("jinaai/jina-reranker-v1-*-en", "jinaai/jina-reranker-v2-base-multilingual"),
        contract="plain",
        documented="model cards",
    ),
    KnownReranker(
        names=("ibm-granite/granite-embedding-reranker-*", "maidalun1020/bce-reranker-base_v1"),
        contract="plain",
        documented="model cards",
    ),
    KnownReranker(
        names=("castorini/monot5-*", "unicamp-dl/InRanker-*"),
        contract="monot5",
        documented="Nogueira et al. 2020; model cards",
    ),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownEmbedder:
    """What goes before a query and before a passage, where the folder itself does not say."""

    names: tuple[str, ...]
    query_prompt: str = ""
    passage_prompt: str = ""
    documented: str = "model cards"


_BGE = "Represent this sentence for searching relevant passages: "
_WEB = "Given a web search query, retrieve relevant passages that answer the query"

KNOWN_EMBEDDERS: tuple[KnownEmbedder, ...] = (
    KnownEmbedder(
        names=("intfloat/multilingual-e5-*-instruct", "intfloat/e5-mistral-7b-instruct"),
        query_prompt=f"Instruct: {_WEB}\nQuery: ",
    ),
    KnownEmbedder(
        names=("intfloat/e5-*", "intfloat/multilingual-e5-*"),
        query_prompt="query: ",
        passage_prompt="passage: ",
    ),
    KnownEmbedder(names=("BAAI/bge-*-en-v1.5", "BAAI/bge-*-en"), query_prompt=_BGE),
    KnownEmbedder(
        names=("BAAI/bge-*-zh-v1.5", "BAAI/bge-*-zh"),
        query_prompt="为这个句子生成表示以用于检索相关文章：",
    ),
    KnownEmbedder(names=("mixedbread-ai/mxbai-embed-*-v1",), query_prompt=_BGE),
    KnownEmbedder(names=("Snowflake/snowflake-arctic-embed-?",), query_prompt=_BGE),
    KnownEmbedder(names=("Snowflake/snowflake-arctic-embed-*-v2.0",), query_prompt="query: "),
    KnownEmbedder(
        names=("nomic-ai/nomic-embed-text-*", "nomic-ai/modernbert-embed-base"),
        query_prompt="search_query: ",
        passage_prompt="search_document: ",
    ),
    KnownEmbedder(names=("Qwen/Qwen3-Embedding-*",), query_prompt=f"Instruct: {_WEB}\nQuery:"),
    KnownEmbedder(
        names=("google/embeddinggemma-300m",),
        query_prompt="task: search result | query: ",
        passage_prompt="title: none | text: ",
    ),
)

Known = TypeVar("Known", KnownReranker, KnownEmbedder)


def known_reranker(source: Source) -> KnownReranker | None:
    return _find(KNOWN_RERANKERS, source)


def known_embedder(source: Source) -> KnownEmbedder | None:
    return _find(KNOWN_EMBEDDERS, source)


def _find(table: tuple[Known, ...], source: Source) -> Known | None:
    ids, folders = names_of(source)
    for known in table:
        for pattern in known.names:
            last = pattern.rpartition("/")[2]
            # a pattern for all of an owner's models says nothing about a folder
            if any(fnmatchcase(name, pattern) for name in ids) or (
                last != "*" and any(fnmatchcase(name, last) for name in folders)
            ):
                return known
    return None
