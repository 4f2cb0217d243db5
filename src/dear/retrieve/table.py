"""The retrievers by name, and what a user types for one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from dear.errors import ConfigError, nearest
from dear.lazy import attribute

if TYPE_CHECKING:
    from dear.digests import Input
    from dear.records import Passage, Query, Ranking
    from dear.retrieve.bm25 import Bm25Options

RETRIEVERS: dict[str, str] = {
    # words that query and passage share
    "bm25": "dear.retrieve.bm25:open_bm25",
    # the nearest embeddings of a bi-encoder: dense:MODEL
    "dense": "dear.retrieve.dense:open_dense",
    # an inverted index of the terms that a SPLADE model gives: splade:MODEL
    "splade": "dear.retrieve.splade:open_splade",
    # several of them, fused
    "hybrid": "dear.retrieve.hybrid:open_hybrid",
}
"""Kind of retriever → module:function, which opens it of (RetrieverSpec, Setting)."""

WITH_MODEL = {"dense": "biencoder", "splade": "splade"}
"""Kinds that need a model → the kind of reading that it has as a reranker."""

Progress = Callable[[int, int], None]


class Retriever(Protocol):
    """A corpus that is ready to be searched many times.

    inputs: what its runs depend on beside texts.  values: the same for people, for a run's note.
    """

    @property
    def name(self) -> str: ...
    @property
    def inputs(self) -> Mapping[str, Input]: ...
    @property
    def values(self) -> Mapping[str, Any]: ...
    def search(
        self,
        queries: Mapping[str, Query],
        top_k: int = 100,
        *,
        progress: Progress | None = None,
    ) -> dict[str, Ranking]:
        """Query id → the best `top_k` passages; equal scores by passage id, the greater first. A
        query that finds nothing has no entry. ConfigError: top_k below 1."""
        ...

    def score_passages(
        self, queries: Mapping[str, Query], passages: Mapping[str, Sequence[str]]
    ) -> dict[str, dict[str, float]]:
        """Query id → the scores of these passages of the corpus, found or not; 0 where query and
        passage have no term in common."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class RetrieverSpec:
    """What to search with. It checks itself, before anything is opened.

    kind: a key of RETRIEVERS.  model: of a kind in WITH_MODEL.
    parts, weights: of a hybrid, whose parts are two or more that are none themselves; without
        weights, reciprocal ranks are added.
    """

    kind: str
    model: str = ""
    parts: tuple[RetrieverSpec, ...] = ()
    weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.kind not in RETRIEVERS:
            raise ConfigError(f"no retriever {self.kind!r}{nearest(self.kind, RETRIEVERS)}")
        if self.kind in WITH_MODEL and not self.model:
            raise ConfigError(f"retriever {self.kind}: name a model, as in {self.kind}:MODEL")
        if self.kind not in WITH_MODEL and self.model:
            raise ConfigError(f"retriever {self.name}: {self.kind} takes no model")
        if self.kind != "hybrid":
            if self.parts or self.weights is not None:
                raise ConfigError(f"retriever {self.name}: parts and weights are for hybrid")
            return
        if len(self.parts) < 2 or any(part.kind == "hybrid" for part in self.parts):
            raise ConfigError(
                "retriever hybrid: name two parts or more that are none themselves, "
                "as in --parts bm25,dense:minilm-l6"
            )
        names = [part.name for part in self.parts]
        if len(set(names)) < len(names):
            raise ConfigError(f"retriever hybrid: a part is named twice: {', '.join(names)}")
        self._check_weights()

    def _check_weights(self) -> None:
        if self.weights is None:
            return
        if len(self.weights) != len(self.parts):
            raise ConfigError(
                f"retriever hybrid: {len(self.weights)} weights for {len(self.parts)} parts"
            )
        if not all(0 <= weight < float("inf") for weight in self.weights) or not any(self.weights):
            raise ConfigError(
                "retriever hybrid: weights are numbers that are 0 or more, not all of them 0"
            )

    @property
    def name(self) -> str:
        """As it was typed."""
        return f"{self.kind}:{self.model}" if self.model else self.kind

    @property
    def leaves(self) -> tuple[RetrieverSpec, ...]:
        """The parts of a hybrid, or itself."""
        return self.parts or (self,)

    @classmethod
    def of(cls, text: str, parts: str | None = None, weights: str | None = None) -> RetrieverSpec:
        """Of a name such as `dense:minilm-l6`, and of names and numbers with commas between."""
        kind, _, model = text.partition(":")
        inner = tuple(cls.of(part.strip()) for part in (parts or "").split(",") if part.strip())
        try:
            numbers = None if weights is None else tuple(map(float, weights.split(",")))
        except ValueError:
            raise ConfigError(f"--weights {weights!r}: numbers with commas between") from None
        return cls(kind=kind, model=model, parts=inner, weights=numbers)


def _unwatched(_name: str) -> AbstractContextManager[None]:
    return nullcontext()


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """What retrievers are opened with.

    options: arguments of `open_model`.  folder: where vectors are kept; None for the cache.
    watch: name of a retriever → where it tells how many passages it has encoded.
    """

    corpus: Mapping[str, Passage]
    bm25: Bm25Options
    options: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    watch: Callable[[str], AbstractContextManager[Progress | None]] = _unwatched


def open_retriever(spec: RetrieverSpec, setting: Setting) -> Retriever:
    """What `spec` says, over a corpus."""
    found: Retriever = attribute(RETRIEVERS[spec.kind])(spec, setting)
    return found


def require_top_k(name: str, top_k: int) -> None:
    """ConfigError for a number of passages below 1."""
    if top_k < 1:
        raise ConfigError(f"{name} top_k = {top_k}: must be 1 or more")
