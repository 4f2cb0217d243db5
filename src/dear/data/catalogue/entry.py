"""What is known about a collection before it is opened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

DEFAULT_GRADE = 1
DEFAULT_MEASURE = "nDCG@10"


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """Judged queries and judgements of a split; None where nobody could say for certain.

    irds: the ir_datasets id whose queries and judgements these are.
    """

    queries: int | None = None
    judgements: int | None = None
    irds: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class CollectionEntry:
    """A collection known by name.

    group: under which heading it is listed.  family: the benchmark that it is one part of.
    documents: passages of the whole collection; a folder may hold the candidates only.
    min_grade: the lowest grade that is relevant in binary measures.
    main_measure: by which it is reported.  first_stage, depth: what is usually reranked.
    hub: a Hugging Face data set in BEIR layout.  restricted: somebody must be asked first, whoever
    knows how to read it.  access: how to get it, where it is not simply downloaded.
    caveat: what its numbers must be read with.
    opener: `pydocs` is made on the spot; `folder` is looked for in the data folders under its
    name and its aliases, and then downloaded (Split.irds, hub).
    """

    name: str
    description: str
    licence: str
    group: str
    aliases: tuple[str, ...] = ()
    family: str | None = None
    documents: int | None = None
    splits: Mapping[str, Split] = field(default_factory=dict)
    min_grade: int = DEFAULT_GRADE
    main_measure: str = DEFAULT_MEASURE
    first_stage: str = "BM25"
    depth: int = 100
    hub: str | None = None
    restricted: bool = False
    access: str = ""
    caveat: str = ""
    opener: Literal["folder", "pydocs"] = "folder"

    @property
    def names(self) -> tuple[str, ...]:
        """Its name, then its aliases."""
        return (self.name, *self.aliases)

    @property
    def irds(self) -> dict[str, str]:
        """Split → ir_datasets id, for those that have one."""
        return {name: split.irds for name, split in self.splits.items() if split.irds}
