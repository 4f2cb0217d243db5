"""Options of steps: frozen dataclasses whose fields say what they mean, for notebooks and the
command line alike. This module imports nothing heavy: help pages are made of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from dear.checkpoints.contract import read_contract

Names: TypeAlias = tuple[str, ...]

TOP_K = 100
"""Candidates of a query, where nothing else is said."""


@dataclass(frozen=True, slots=True)
class Option:
    """What a field means: `field: Annotated[int, Option("Passages in a prompt.", "N", least=2)]`.

    metavar: what its value looks like on a help page.  flags: such as `--output`, `-o`; made of
    the field's name where none are given.  least: the lowest value.  shown: what the help page
    says of the default; "" shows nothing.  argument: typed without a flag.
    """

    help: str
    metavar: str | None = None
    flags: Names = ()
    least: int | None = None
    shown: str | None = None
    argument: bool = False


CollectionName: TypeAlias = Annotated[
    str, Option("A name of `dear collections`, or a folder.", "COLLECTION", argument=True)
]


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelOptions:
    """How a model is opened and computes. ConfigError for a contract that is none."""

    contract: Annotated[
        str | None,
        Option(
            "How MODEL reads a pair: plain, card, dear, rankllama …; or a file that says it.",
            "NAME|FILE",
            shown="by its files and name",
        ),
    ] = None
    instruction: Annotated[
        str | None, Option("What to look for, for models that are told.", "TEXT")
    ] = None
    revision: Annotated[str | None, Option("Of a hub id: a branch, a tag or a commit.", "REV")] = (
        None
    )
    max_passage_tokens: Annotated[
        int | None, Option("Of a passage, in a zero-shot reading.", "N", least=1, shown="1024")
    ] = None
    dtype: Annotated[
        str,
        Option(
            "auto, float32, bfloat16 or float16; int8 or int4 for weights that would not fit.",
            "TYPE",
            shown="",
        ),
    ] = "auto"
    device: Annotated[
        str,
        Option(
            "auto, cpu, cuda, cuda:1 or mps; several, with commas between, share the work; "
            "sharded: one model over all GPUs.",
            "NAME",
            shown="",
        ),
    ] = "auto"
    batch_tokens: Annotated[
        int | None, Option("Padded tokens in a batch.", "N", least=1, shown="by device")
    ] = None

    def __post_init__(self) -> None:
        if self.contract is not None:
            read_contract(self.contract)

    def to_dict(self) -> dict[str, Any]:
        """Arguments of `open_model` and `Reranker`."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class RetrieveOptions:
    """What `retrieve` searches, and how; None: as the collection is usually searched."""

    collection: CollectionName
    output: Annotated[
        Path, Option("The run to write (.gz packs it).", "RUN", flags=("--output", "-o"))
    ]
    split: Annotated[str, Option("Whose queries.", "SPLIT")] = "test"
    top_k: Annotated[int, Option("Passages for each query.", "N")] = TOP_K
    k1: Annotated[float | None, Option("How fast repeats saturate.", "X", shown="0.9")] = None
    b: Annotated[float | None, Option("How much length counts.", "X", shown="0.4")] = None
    stemmer: Annotated[str | None, Option("A language, or none.", "NAME", shown="english")] = None
    stopwords: Annotated[str | None, Option("A language, or none.", "NAME", shown="english")] = None
    split_identifiers: Annotated[
        bool | None,
        Option(
            "Take readFile and read_file apart, too.",
            flags=("--split-identifiers/--no-split-identifiers",),
            shown="on for pydocs",
        ),
    ] = None
    single_letters: Annotated[
        bool | None,
        Option(
            'Count words of one letter, such as "C" and "R".',
            flags=("--single-letters/--no-single-letters",),
            shown="off",
        ),
    ] = None


@dataclass(frozen=True, kw_only=True, slots=True)
class DistillOptions:
    """What `distill_with` distils, and by which recipe."""

    collection: CollectionName
    recipe: Annotated[
        str,
        Option(
            "A shipped recipe, a TOML file, or auto: laptop where the processor is up to it, "
            "quick elsewhere.",
            "NAME",
        ),
    ] = "laptop"
    output: Annotated[
        Path | None, Option("Default: runs/COLLECTION.", "DIR", flags=("--output", "-o"))
    ] = None
    changes: Annotated[
        tuple[str, ...],
        Option("Change the recipe: student.queries=500.", "KEY=VALUE", flags=("--set",)),
    ] = ()
