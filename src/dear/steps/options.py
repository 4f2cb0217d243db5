"""Options of steps: frozen dataclasses whose fields say what they mean, for notebooks and the
command line alike. This module imports nothing heavy: help pages are made of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from dear.checkpoints.contract import read_contract
from dear.checkpoints.registry import BUILT_IN, FIRST_STAGE, check_model
from dear.data.remote import is_url
from dear.errors import ConfigError, nearest
from dear.export.formats import FORMATS
from dear.recipes import LONG, Recipe, load_distill_recipe, load_recipe
from dear.retrieve.table import WITH_MODEL, RetrieverSpec

Names: TypeAlias = tuple[str, ...]

AUTO_RECIPE = "auto"
"""In place of a distillation recipe's name: the one that fits this machine."""

STRONGEST = "auto"
"""In place of a teacher's name: the strongest public model on this machine."""

TOP_K = 100
"""Candidates of a query, where nothing else is said."""

SHOWN = 10
"""Passages of a query that is typed, where nothing else is said."""


@dataclass(frozen=True, slots=True)
class Option:
    """What a field means: `field: Annotated[int, Option("Passages in a prompt.", "N", least=2)]`.

    metavar: what its value looks like on a help page.  flags: such as `--output`, `-o`; made of
    the field's name where none are given.  least, most: the lowest and highest value.  shown: what
    the help page says of the default; "" shows nothing.  argument: typed without a flag.
    """

    help: str
    metavar: str | None = None
    flags: Names = ()
    least: float | None = None
    most: float | None = None
    shown: str | None = None
    argument: bool = False


CollectionName: TypeAlias = Annotated[
    str,
    Option("A name of `dear collections`, a folder, or its URL.", "COLLECTION", argument=True),
]
ModelName: TypeAlias = Annotated[
    str, Option("A checkpoint: a folder, hub id or name.", "MODEL", argument=True)
]
RunName: TypeAlias = Annotated[
    str, Option("A run's file, or one of the collection's own runs.", "RUN")
]
RunSplit: TypeAlias = Annotated[str, Option("Of the run and the queries.", "SPLIT")]
MinGrade: TypeAlias = Annotated[
    int | None,
    Option(
        "Lowest grade that is relevant in MRR, MAP, R: 1, unless the collection says another.",
        "N",
        least=1,
    ),
]
Aggregate: TypeAlias = Annotated[
    str | None,
    Option("max: passages are of documents, which count by their best passage.", "max"),
]
Contract: TypeAlias = Annotated[
    str | None,
    Option(
        "How MODEL reads a pair: plain, card, dear, rankllama …; or a file that says it.",
        "NAME|FILE",
        shown="by its files and name",
    ),
]
Instruction: TypeAlias = Annotated[
    str | None, Option("What to look for, for models that are told.", "TEXT")
]
Revision: TypeAlias = Annotated[
    str | None, Option("Of a hub id: a branch, a tag or a commit.", "REV")
]
ShardOption: TypeAlias = Annotated[
    str | None,
    Option("Work on shard I of N of the queries alone (from 0): 0/4, 1/4 … in N processes.", "I/N"),
]
Runtime: TypeAlias = Annotated[
    str,
    Option(
        "torch, or openvino or onnx: a checkpoint's export, made once and kept; auto: the fastest "
        "of them here where it pays (docs/scoring.md).",
        "NAME",
        shown="",
    ),
]
Device: TypeAlias = Annotated[
    str,
    Option(
        "auto, cpu, cuda, cuda:1 or mps; several, with commas between, share the work; "
        "sharded: one model over all GPUs.",
        "NAME",
        shown="",
    ),
]
BatchTokens: TypeAlias = Annotated[
    int | None, Option("Padded tokens in a batch.", "N", least=1, shown="by device")
]


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelOptions:
    """How a model is opened and computes. ConfigError for a contract that is none."""

    contract: Contract = None
    instruction: Instruction = None
    revision: Revision = None
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
    device: Device = "auto"
    batch_tokens: BatchTokens = None

    def __post_init__(self) -> None:
        if self.contract is not None:
            read_contract(self.contract)

    def to_dict(self) -> dict[str, Any]:
        """Arguments of `open_model` and `Reranker`."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderOptions:
    """How the models of retrievers are opened and compute, and where their vectors are kept."""

    vectors: Annotated[
        Path | None,
        Option("Where vectors of passages are kept.", "DIR", shown="~/.cache/dear/vectors"),
    ] = None
    instruction: Instruction = None
    revision: Revision = None
    dtype: Annotated[
        str, Option("auto, float32, bfloat16 or float16; of the model.", "TYPE", shown="")
    ] = "auto"
    device: Annotated[
        str, Option("auto, cpu, cuda, cuda:1 or mps; of the model.", "NAME", shown="")
    ] = "auto"
    batch_tokens: BatchTokens = None

    def to_dict(self) -> dict[str, Any]:
        """Arguments of `open_model`."""
        return {name: value for name, value in asdict(self).items() if name != "vectors"}


@dataclass(frozen=True, kw_only=True, slots=True)
class PlaceOptions:
    """Where a job over leaves is worked on. ConfigError for options of Ray without it."""

    on: Annotated[
        str, Option("local: this process; ray: workers of a Ray cluster, leaf by leaf.", "PLACE")
    ] = "local"
    workers: Annotated[
        int | None, Option("With ray.", "N", least=1, shown="what the cluster has room for")
    ] = None
    gpus_per_worker: Annotated[
        float | None, Option("With ray.", "X", least=0, shown="1 where there are any")
    ] = None
    cpus_per_worker: Annotated[
        int | None,
        Option("With ray, and its threads.", "N", least=1, shown="OMP_NUM_THREADS, or a machine's"),
    ] = None
    ray_address: Annotated[
        str | None,
        Option("Of the cluster.", "HOST:PORT", shown="RAY_ADDRESS, else one started here"),
    ] = None

    def __post_init__(self) -> None:
        if self.on not in ("local", "ray"):
            raise ConfigError(f"--on {self.on}{nearest(self.on, ('local', 'ray'))}")
        given = [name for name, value in self.to_dict().items() if value is not None]
        if given and not self.far:
            name = {"address": "ray-address", "workers": "workers"}.get(
                given[0], f"{given[0]}-per-worker"
            )
            raise ConfigError(f"--{name} is for --on ray")

    @property
    def far(self) -> bool:
        return self.on == "ray"

    def shard(self, asked: str | None) -> str | None:
        """What is worked on: elsewhere a job is always cut into leaves."""
        return "0/1" if asked is None and self.far else asked

    def to_dict(self) -> dict[str, Any]:
        """Arguments of `dear.bulk.crew.Crew`."""
        return {
            "workers": self.workers,
            "gpus": self.gpus_per_worker,
            "cpus": self.cpus_per_worker,
            "address": self.ray_address,
        }


_BM25 = ("k1", "b", "stemmer", "stopwords", "split_identifiers", "single_letters")


@dataclass(frozen=True, kw_only=True, slots=True)
class RetrieveOptions:
    """What `retrieve` searches, and how; None: as the collection is usually searched. ConfigError
    for a retriever that is none, and for options of another."""

    collection: CollectionName
    output: Annotated[
        Path | None,
        Option("The run to write (.gz packs it).", "RUN", flags=("--output", "-o"), shown=""),
    ] = None
    query: Annotated[
        str | None,
        Option("Show what is found for this question; no run is written.", "TEXT", shown=""),
    ] = None
    split: Annotated[str, Option("Whose queries.", "SPLIT")] = "test"
    top_k: Annotated[
        int | None, Option("Passages for each query.", "N", shown="100, with --query 10")
    ] = None
    retriever: Annotated[
        str, Option("bm25, dense:MODEL, splade:MODEL, or hybrid of several --parts.", "NAME")
    ] = "bm25"
    parts: Annotated[
        str | None, Option("Of hybrid: bm25,dense:minilm-l6; with commas between.", "NAMES")
    ] = None
    weights: Annotated[
        str | None,
        Option("Of the parts' scores, such as 0.3,1.", "W,W", shown="reciprocal ranks are added"),
    ] = None
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
    encoder_options: EncoderOptions = EncoderOptions()

    def __post_init__(self) -> None:
        if (self.output is None) == (self.query is None):
            raise ConfigError("give --output RUN for all queries, or --query TEXT for one")
        kinds = [part.kind for part in self.spec.leaves]
        given = [name for name in _BM25 if getattr(self, name) is not None]
        if given and "bm25" not in kinds:
            flag = given[0].replace("_", "-")
            raise ConfigError(f"--{flag} is for bm25, not for {self.retriever}")
        models = sum(kind in WITH_MODEL for kind in kinds)
        if self.encoder_options.revision is not None and models != 1:
            raise ConfigError(f"--revision is for one model, and there are {models}")
        if self.encoder_options.instruction is not None and not models:
            raise ConfigError(f"--instruction is for models, not for {self.retriever}")

    @property
    def depth(self) -> int:
        """Passages for each query."""
        if self.top_k is not None:
            return self.top_k
        return TOP_K if self.query is None else SHOWN

    @property
    def spec(self) -> RetrieverSpec:
        """What is searched with."""
        return RetrieverSpec.of(self.retriever, self.parts, self.weights)

    @property
    def bm25(self) -> dict[str, Any]:
        """The options of BM25 that were given; `none` is None."""
        given = {name: getattr(self, name) for name in _BM25}
        return {k: None if v == "none" else v for k, v in given.items() if v is not None}


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitOptions:
    """Which documents `split` takes apart, and into what."""

    collection: CollectionName
    output: Annotated[
        Path, Option("The folder of the new collection.", "DIR", flags=("--output", "-o"))
    ]
    model: Annotated[
        str | None,
        Option(
            "Whose tokens are counted: a model, of which only the tokenizer is read, or words.",
            "MODEL",
            shown="minilm-l6 where its package is there, else words",
        ),
    ] = None
    tokens: Annotated[int, Option("Of a passage, title included.", "N", least=8)] = 192
    overlap: Annotated[
        int | None,
        Option(
            "Tokens that a passage may repeat of the one before, in whole sentences.",
            "N",
            shown="a sixth of them",
        ),
    ] = None


@dataclass(frozen=True, kw_only=True, slots=True)
class QueriesOptions:
    """From which passages `make_queries` makes queries, how, and which it keeps. ConfigError for
    options that contradict each other."""

    collection: CollectionName
    output: Annotated[
        Path,
        Option(
            "The folder of a collection with them in its split made; or a .jsonl file for them.",
            "DIR|FILE",
            flags=("--output", "-o"),
        ),
    ]
    passages: Annotated[
        int | None, Option("Of at most N passages, evenly spread.", "N", least=1, shown="all")
    ] = None
    per_passage: Annotated[int, Option("Queries of a passage, by rule.", "N", least=1)] = 1
    kinds: Annotated[str, Option("What a rule makes them of, with commas.", "NAMES")] = (
        "title,heading,sentence"
    )
    llm: Annotated[
        str | None, Option("Written by a language model instead: local:MODEL, http:// …", "BACKEND")
    ] = None
    examples: Annotated[
        str | None,
        Option("Show the LLM judged pairs of this split.", "SPLIT", shown="three general ones"),
    ] = None
    shots: Annotated[int, Option("So many of them.", "N", least=1, most=8)] = 4
    max_words: Annotated[int, Option("Of a passage in a prompt.", "N", least=10)] = 200
    ledger: Annotated[
        Path | None,
        Option("Where the LLM's answers are kept.", "FILE", shown="DIR/answers.jsonl"),
    ] = None
    top_k: Annotated[
        int, Option("Kept where BM25 finds the passage among its best N.", "N", least=1)
    ] = 10
    teacher: Annotated[
        str | None, Option("Kept where this model puts the passage first of those, too.", "MODEL")
    ] = None
    margin: Annotated[float, Option("By so much, in the teacher's scores.", "X", least=0.0)] = 0.0
    against: Annotated[
        Names,
        Option("One more collection whose test queries are left out.", "COLLECTION"),
    ] = ()
    seed: Annotated[int, Option("Of what a rule draws.", "N")] = 0
    model_options: ModelOptions = ModelOptions()

    def __post_init__(self) -> None:
        if self.llm is None:
            for name in ("examples", "ledger"):
                if getattr(self, name) is not None:
                    raise ConfigError(f"--{name} is for an --llm: name one")
        if self.examples == "test":
            raise ConfigError("--examples test would show the LLM test queries; take train or dev")
        if self.margin and self.teacher is None:
            raise ConfigError("--margin is that of a --teacher: name one")


@dataclass(frozen=True, kw_only=True, slots=True)
class DistillOptions:
    """What is distilled, and by which recipe. Raises what `load_distill_recipe` raises."""

    collection: CollectionName
    recipe: Annotated[
        str | None,
        Option(
            "A shipped recipe, a TOML file, or auto: laptop where the processor is up to it, "
            "quick elsewhere.",
            "NAME",
            shown="laptop; folder where no query is judged to train on",
        ),
    ] = None
    output: Annotated[
        Path | None, Option("Default: runs/COLLECTION.", "DIR", flags=("--output", "-o"))
    ] = None
    teacher: Annotated[
        str | None,
        Option(
            "What labels, as `dear label --model` names it; auto: the strongest public model on "
            "this machine. Else the recipe's.",
            "MODEL",
        ),
    ] = None
    teacher_minutes: Annotated[
        float | None,
        Option("That --teacher auto may label for; the recipe's, 30.", "M", least=0),
    ] = None
    changes: Annotated[
        tuple[str, ...],
        Option("Change the recipe: student.queries=500.", "KEY=VALUE", flags=("--set",)),
    ] = ()

    def __post_init__(self) -> None:
        if self.teacher == FIRST_STAGE:
            raise ConfigError(f"--teacher {FIRST_STAGE}: a student of it could not do better")
        if self.teacher not in (None, STRONGEST):
            check_model(self.teacher)
        if self.recipe != AUTO_RECIPE:  # before anything heavy is loaded
            load_distill_recipe(self.recipe or LONG, self.changes)


@dataclass(frozen=True, kw_only=True, slots=True)
class ListwiseOptions:
    """How a listwise stage asks; `dear.rank.opening.RankerSpec` checks it."""

    prompt: Annotated[
        str | None,
        Option(
            "rankvicuna, rankgpt, reasoning, list, pairs; a local model's, else rankvicuna.", "NAME"
        ),
    ] = None
    guard: Annotated[
        bool,
        Option("Quote passages in lists, so that they cannot give orders.", flags=("--guard",)),
    ] = False
    strategy: Annotated[str, Option("sliding, topdown, setwise, tournament or full.", "NAME")] = (
        "sliding"
    )
    window: Annotated[int, Option("Passages in a prompt.", "N")] = 20
    step: Annotated[int, Option("How far a window slides.", "N")] = 10

    def to_dict(self) -> dict[str, Any]:
        """Fields of `RankerSpec`."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class RankOptions:
    """What `rank` reranks, with what. ConfigError for options that contradict each other."""

    collection: CollectionName
    run: Annotated[
        str, Option("The first stage: a file, or one of the collection's own runs.", "RUN")
    ]
    output: Annotated[
        Path, Option("The run to write (.gz packs it).", "RUN", flags=("--output", "-o"))
    ]
    model: Annotated[
        str | None, Option("A folder, a hub id, or a name of `dear models`.", "MODEL")
    ] = None
    split: Annotated[str, Option("Of a run that is given by name.", "SPLIT")] = "test"
    top_k: Annotated[
        int | None, Option("Rank the best N candidates and keep only those.", "N", least=1)
    ] = None
    fuse: Annotated[
        str | None,
        Option("Add W times the score of the stage before; auto: W by a dev run.", "W|auto"),
    ] = None
    fuse_run: Annotated[
        str | None, Option("The dev run for auto; the collection's own, or BM25.", "RUN")
    ] = None
    fuse_split: Annotated[str, Option("The judged queries for auto.", "SPLIT")] = "dev"
    fuse_queries: Annotated[int, Option("At most so many of them.", "N", least=1)] = 200
    aggregate: Aggregate = None
    listwise: Annotated[
        str | None,
        Option(
            "Rerank the best listwise, after the model if there is one: local:MODEL, "
            "http://HOST/v1, openai:MODEL …",
            "BACKEND",
        ),
    ] = None
    listwise_options: ListwiseOptions = ListwiseOptions()
    depth: Annotated[
        int | None,
        Option(
            "Rank lists of the best N only, leave the others.",
            "N",
            least=1,
            shown="20 behind a model, else all",
        ),
    ] = None
    ledger: Annotated[
        Path | None, Option("Where answers are kept, RUN.answers.jsonl if not given.", "FILE")
    ] = None
    no_ledger: Annotated[
        bool,
        Option("Keep no answers: what is lost is paid again.", flags=("--no-ledger",)),
    ] = False
    shard: ShardOption = None
    runtime: Runtime = "auto"
    place: PlaceOptions = PlaceOptions()
    model_options: ModelOptions = ModelOptions()

    def __post_init__(self) -> None:
        weight = self.fuse_weight
        if self.place.far and (self.listwise is not None or weight == "auto"):
            raise ConfigError("--on ray is for a --model alone, and for --fuse with a number")
        if self.ledger is not None and (self.no_ledger or self.listwise is None):
            raise ConfigError("--ledger keeps the answers of --listwise, and not with --no-ledger")
        if weight == "auto" and (self.model is None or self.listwise is not None):
            raise ConfigError("--fuse auto is about a --model's scores alone: give a number")

    @property
    def fuse_weight(self) -> float | Literal["auto"] | None:
        """`fuse` as a number. ConfigError for what is none."""
        if self.fuse is None or self.fuse == "auto":
            return self.fuse  # type: ignore[return-value]
        try:
            weight = float(self.fuse)
        except ValueError:
            weight = -1.0
        if not 0 <= weight < float("inf"):
            raise ConfigError(f"--fuse {self.fuse!r}: expected auto, or a number that is 0 or more")
        return weight


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckOptions:
    """What ranker `check` disturbs, and on which queries."""

    model: Annotated[
        str,
        Option("What --model of `dear rank` takes, or a listwise backend.", "MODEL", argument=True),
    ]
    collection: CollectionName
    run: RunName
    split: Annotated[str, Option("Of the run and the judgements.", "SPLIT")] = "test"
    queries: Annotated[
        int, Option("At most so many, evenly spread over the run.", "N", least=2)
    ] = 30
    depth: Annotated[int, Option("The best N candidates of each.", "N", least=2)] = 20
    only: Annotated[
        str | None,
        Option(
            "order, injection, near-duplicates, truncation, queries, extremes; with commas.",
            "NAMES",
        ),
    ] = None
    min_grade: MinGrade = None
    seed: Annotated[int, Option("Of everything random.", "N")] = 0
    listwise: Annotated[
        str | None, Option("Whole lists behind MODEL: check the cascade.", "BACKEND")
    ] = None
    listwise_options: ListwiseOptions = ListwiseOptions()
    fuse: Annotated[float, Option("Add W times MODEL's score to the lists' places.", "W")] = 0.0
    model_options: ModelOptions = ModelOptions()


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrateOptions:
    """What map `calibrate` fits, and on which queries. ConfigError for a fit on test queries that
    is not asked for."""

    model: ModelName
    collection: Annotated[str, Option("Queries like those that will be ranked.", "COLLECTION")]
    output: Annotated[
        Path | None,
        Option(
            "The folder to write to; the model's own if not given.",
            "DIR",
            flags=("--output", "-o"),
        ),
    ] = None
    run: RunName = "bm25"
    split: RunSplit = "dev"
    queries: Annotated[int, Option("Queries to look at.", "N", least=2)] = 200
    probability: Annotated[str, Option("The map: platt, temperature or isotonic.", "KIND")] = (
        "platt"
    )
    min_grade: MinGrade = None
    unjudged: Annotated[str, Option("What to do with unjudged passages.", "leave|irrelevant")] = (
        "leave"
    )
    allow_test: Annotated[
        bool, Option("Fit on the test split after all.", flags=("--allow-test",))
    ] = False
    model_options: ModelOptions = ModelOptions()

    def __post_init__(self) -> None:
        if self.split == "test" and not self.allow_test:
            raise ConfigError(
                "a map fitted on test flatters every test result; fit it on dev or train "
                "(--split), or say --allow-test"
            )
        if self.output is None and not self.folder.is_dir():
            raise ConfigError(f"{self.model} is no folder; name one for the map with --output")
        if self.unjudged not in ("leave", "irrelevant"):
            raise ConfigError(f"--unjudged {self.unjudged!r}: leave or irrelevant")

    @property
    def folder(self) -> Path:
        """Where the map is written."""
        return self.output or Path(self.model)


@dataclass(frozen=True, kw_only=True, slots=True)
class RerankOptions:
    """What `rerank` ranks for one query."""

    query: Annotated[str, Option("What is asked.", "QUERY", argument=True)]
    file: Annotated[
        str,
        Option(
            "Passages, a line each, as text or JSON; - is standard input.", "FILE", argument=True
        ),
    ]
    model: Annotated[
        str, Option("A model; a student of your own is better than this one.", "MODEL")
    ] = BUILT_IN
    top_k: Annotated[int, Option("Passages to show.", "N", least=1)] = 10
    probability: Annotated[
        bool,
        Option("Show how likely each is relevant; see `dear calibrate`.", flags=("--probability",)),
    ] = False
    threshold: Annotated[
        float | None, Option("Leave out what is less likely relevant.", "P", least=0, most=1)
    ] = None
    calibration: Annotated[
        Path | None, Option("Where the map to probabilities is.", "DIR", shown="MODEL")
    ] = None
    explain: Annotated[
        bool,
        Option(
            "Show how each score comes about: tokens, cut, engine, plain logit.",
            flags=("--explain",),
        ),
    ] = False
    runtime: Runtime = "auto"
    model_options: ModelOptions = ModelOptions()

    def __post_init__(self) -> None:
        if not self.query.strip():
            raise ConfigError("the query is empty")
        try:
            self.query.encode("utf-8")
        except UnicodeEncodeError:
            raise ConfigError("the query is not UTF-8") from None

    @property
    def with_probability(self) -> bool:
        return self.probability or self.threshold is not None or self.calibration is not None


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportOptions:
    """What `export` writes, and on what it is measured."""

    model: ModelName
    output: Annotated[Path, Option("The export's folder.", "DIR", flags=("--output", "-o"))]
    format: Annotated[str, Option(f"{', '.join(FORMATS)}.", "FORMAT")] = "openvino"
    dtype: Annotated[
        str | None,
        Option(
            "float32, bfloat16, float16 or int8, as the format has it.",
            "TYPE",
            shown="the format's: bfloat16, or float32 for sentence-transformers",
        ),
    ] = None
    collection: Annotated[
        str | None,
        Option(
            "Its pairs prove the export and calibrate int8; Python's own documents if not given.",
            "COLLECTION",
        ),
    ] = None
    run: RunName = "bm25"
    split: RunSplit = "dev"
    pairs: Annotated[int, Option("Pairs to calibrate on.", "N", least=8)] = 256
    check_queries: Annotated[
        int, Option("Queries on which checkpoint and export are compared.", "N", least=2)
    ] = 20
    compare: Annotated[
        bool,
        Option(
            "Time the checkpoint and its export beside each other, with --collection.",
            flags=("--compare/--no-compare",),
        ),
    ] = True
    contract: Contract = None
    instruction: Instruction = None
    revision: Revision = None

    @property
    def picked_dtype(self) -> str:
        """The format's own where none is named."""
        return self.dtype or FORMATS[self.format].dtypes[0]

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise ConfigError(f"--format {self.format}: no such{nearest(self.format, FORMATS)}")
        known = FORMATS[self.format].dtypes
        if self.picked_dtype not in known:
            said = f"{', '.join(known[:-1])} or {known[-1]}"
            raise ConfigError(f"--dtype {self.dtype}: an export to {self.format} is {said}")
        needs_pairs = self.dtype == "int8" and FORMATS[self.format].calibrated
        if needs_pairs and self.collection is None:
            raise ConfigError("--dtype int8 needs --collection: its pairs set the ranges")
        if self.contract is not None:
            read_contract(self.contract)


@dataclass(frozen=True, kw_only=True, slots=True)
class PushOptions:
    """What `push` publishes, and where."""

    folder: Annotated[Path, Option("A model: an export or a checkpoint.", "DIR", argument=True)]
    repo: Annotated[
        str | None, Option("Where on the hub: OWNER/NAME.", "REPO", argument=True, shown="")
    ] = None
    dry_run: Annotated[
        bool, Option("Write all of it to --output, upload nothing.", flags=("--dry-run",))
    ] = False
    output: Annotated[
        Path | None,
        Option(
            "An empty folder for what is published, card included.",
            "DIR",
            flags=("--output", "-o"),
            shown="FOLDER-published",
        ),
    ] = None
    license: Annotated[
        str | None, Option("The model's: an identifier of the hub, such as mit.", "ID")
    ] = None
    language: Annotated[Names, Option("Of the data, such as en; may be repeated.", "CODE")] = ()
    results: Annotated[
        Path | None,
        Option("The results.json of a distillation; that beside the student if not given.", "FILE"),
    ] = None
    private: Annotated[bool, Option("A new repository is private.", flags=("--private",))] = False

    def __post_init__(self) -> None:
        if self.repo is None and not self.dry_run:
            raise ConfigError("push needs OWNER/NAME, or --dry-run to look at it first")


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchOptions:
    """Which systems `bench` measures, on which pairs."""

    models: Annotated[
        Names,
        Option(
            "A checkpoint, and exports or other models to put beside it.",
            "MODEL...",
            argument=True,
        ),
    ]
    collection: Annotated[str, Option("Whose pairs are scored.", "COLLECTION")] = "pydocs"
    run: Annotated[str, Option("A run's file or name; pydocs is searched with BM25.", "RUN")] = (
        "bm25"
    )
    split: Annotated[str, Option("Of the queries.", "SPLIT")] = "test"
    queries: Annotated[int, Option("Queries to score.", "N", least=1)] = 10
    top_k: Annotated[int, Option("Candidates of each.", "N", least=1)] = TOP_K
    rounds: Annotated[int, Option("Turns of each system; the median counts.", "N", least=1)] = 3
    peers: Annotated[
        bool, Option("Measure what else is installed, too.", flags=("--peers/--no-peers",))
    ] = True
    tune: Annotated[
        bool,
        Option("Find the fastest token budget first; remember it.", flags=("--tune",)),
    ] = False
    plot: Annotated[Path | None, Option("An SVG: pairs a second against nDCG@10.", "FILE")] = None
    contract: Contract = None
    instruction: Instruction = None
    revision: Revision = None
    device: Device = "auto"
    batch_tokens: BatchTokens = None

    def __post_init__(self) -> None:
        if self.contract is not None:
            read_contract(self.contract)


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanOptions:
    """Which training `plan` computes, on which cards."""

    recipe: Annotated[
        str, Option("A TOML file, or the name of a shipped recipe.", "RECIPE", argument=True)
    ]
    gpu: Annotated[
        str | None,
        Option(
            "rtx-4090, l4, a100-80gb, h100, h200, …; or cpu.",
            "CARD",
            shown="h100; cpu for a small model where there is no GPU",
        ),
    ] = None
    gpus: Annotated[int, Option("How many of them, in all.", "N", least=1)] = 1
    queries: Annotated[
        int | None,
        Option("Training queries or lists.", "N", least=1, shown="those of the data"),
    ] = None
    mean_tokens: Annotated[
        int | None, Option("Of a pair or a list.", "N", least=1, shown="assumed")
    ] = None
    mfu: Annotated[
        float | None,
        Option("Share of the peak in training.", least=0.001, most=1.0, shown="0.45"),
    ] = None
    scoring_mfu: Annotated[
        float | None,
        Option("Share of the peak in scoring.", least=0.001, most=1.0, shown="0.5"),
    ] = None
    price_per_hour: Annotated[
        float | None, Option("Of one card; adds what all of it costs.", "PRICE", least=0.0)
    ] = None
    changes: Annotated[
        Names,
        Option("Change the recipe: train.accumulate=8.", "KEY=VALUE", flags=("--set",)),
    ] = ()

    def __post_init__(self) -> None:
        load_recipe(self.recipe, self.changes)  # before anything heavy is loaded


CollectionRuns: TypeAlias = Annotated[
    Names,
    Option(
        "A run's file, or one of the collection's own; may be repeated.", "RUN", flags=("--run",)
    ),
]


NamedRuns: TypeAlias = Annotated[
    Names,
    Option(
        "A run's file, or one of the collection's own, and how to call it; may be repeated.",
        "[NAME=]RUN",
        flags=("--run",),
    ),
]


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelOptions:
    """Which teachers label which runs. ConfigError: an unknown model, not one weight for each."""

    collection: CollectionName
    runs: CollectionRuns
    models: Annotated[
        Names,
        Option(
            "A teacher; `first-stage` is the run's own score; several make an ensemble.",
            "MODEL",
            flags=("--model",),
        ),
    ]
    output: Annotated[Path, Option("The labels' folder.", "DIR", flags=("--output", "-o"))]
    weights: Annotated[
        tuple[float, ...], Option("One for each teacher.", "W", flags=("--weight",), shown="1")
    ] = ()
    judged: Annotated[str | None, Option("Label this split's relevant passages, too.", "SPLIT")] = (
        None
    )
    split: Annotated[str, Option("Of runs that are given by name.", "SPLIT")] = "train"
    shard: ShardOption = None
    mirror: Annotated[
        str | None,
        Option("Keep a copy here while labelling, and go on from it: s3://bucket/folder.", "URL"),
    ] = None
    dry_run: Annotated[
        bool,
        Option("Say how much work it is, and what it takes; label nothing.", flags=("--dry-run",)),
    ] = False
    pairs_per_second: Annotated[
        float | None,
        Option("For --dry-run: of one process.", "X", least=0.001, shown="measured on a sample"),
    ] = None
    price_per_hour: Annotated[
        float | None, Option("For --dry-run: of one process's machine.", "X", least=0)
    ] = None
    runtime: Runtime = "torch"
    place: PlaceOptions = PlaceOptions()
    model_options: ModelOptions = ModelOptions()

    def __post_init__(self) -> None:
        for name in self.models:
            check_model(name)
        cut = self.place.shard(self.shard) is not None
        if (cut or self.dry_run) and len(self.models) > 1:
            raise ConfigError("--shard, --on ray and --dry-run take one --model at a time")
        if self.place.far and FIRST_STAGE in self.models:
            raise ConfigError(f"--on ray: {FIRST_STAGE} scores nothing")
        asked = (self.pairs_per_second, self.price_per_hour)
        if not self.dry_run and any(value is not None for value in asked):
            raise ConfigError("--pairs-per-second and --price-per-hour are for --dry-run")
        if self.mirror is not None and self.dry_run:
            raise ConfigError("--dry-run looks at --output alone; leave --mirror out")
        if self.weights and len(self.weights) != len(self.models):
            raise ConfigError(
                f"{_counted(len(self.models), 'teacher')}, {_counted(len(self.weights), 'weight')}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelStoresOptions:
    """Which label stores, and what is done with them. ConfigError for options that are of another
    action."""

    action: Annotated[
        str,
        Option(
            "info, verify, merge (of the shards of one job), or compact.", "ACTION", argument=True
        ),
    ]
    stores: Annotated[
        Names, Option("A folder of `dear label`, or its URL.", "STORE", argument=True)
    ]
    output: Annotated[Path | None, Option("The merged store.", "DIR", flags=("--output", "-o"))] = (
        None
    )
    partial: Annotated[
        bool, Option("Shards may be missing or unfinished.", flags=("--partial",))
    ] = False
    collection: Annotated[
        str | None,
        Option("verify: each pair of its --run has one label, and no other has.", "COLLECTION"),
    ] = None
    runs: CollectionRuns = ()
    judged: Annotated[str | None, Option("And this split's relevant passages.", "SPLIT")] = None
    split: Annotated[str, Option("Of runs that are given by name.", "SPLIT")] = "train"

    def __post_init__(self) -> None:
        actions = ("info", "verify", "merge", "compact")
        if self.action not in actions:
            raise ConfigError(f"no action {self.action!r}{nearest(self.action, actions)}")
        if not self.stores:
            raise ConfigError("name one label store or more")
        if (self.output is not None) != (self.action == "merge"):
            raise ConfigError("merge writes to an --output; no other action does")
        if (self.collection is not None) != bool(self.runs):
            raise ConfigError("--collection and --run go together")
        if self.collection is not None and self.action != "verify":
            raise ConfigError("--collection and --run are for verify")
        if self.action == "compact" and len(self.stores) > 1:
            raise ConfigError("compact takes one store at a time")
        if self.action == "compact" and is_url(self.stores[0]):
            raise ConfigError("compact takes a folder of this machine, no URL")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainOptions:
    """What is trained, and where the checkpoint goes. Raises what `load_recipe` raises."""

    recipe: Annotated[
        str, Option("A TOML file, or the name of a shipped recipe.", "RECIPE", argument=True)
    ]
    output: Annotated[Path, Option("The checkpoint's folder.", "DIR", flags=("--output", "-o"))]
    changes: Annotated[
        Names, Option("Change the recipe: train.epochs=2.", "KEY=VALUE", flags=("--set",))
    ] = ()

    def __post_init__(self) -> None:
        self.load_recipe()  # before anything heavy is loaded

    def load_recipe(self) -> Recipe:
        return load_recipe(self.recipe, self.changes)


@dataclass(frozen=True, kw_only=True, slots=True)
class LaunchOptions:
    """In how many processes a training runs; without `gpus` and `processes`, in this one.
    ConfigError for what does not go together."""

    gpus: Annotated[int | None, Option("Train on N GPUs of this machine.", "N")] = None
    processes: Annotated[int | None, Option("Train in N processes on the CPU.", "N")] = None
    nodes: Annotated[int, Option("Machines; the command is started on each.", "N")] = 1
    node_rank: Annotated[int, Option("The number of this machine, from 0.", "I")] = 0
    main_address: Annotated[str | None, Option("Where machine 0 is found.", "HOST[:PORT]")] = None

    def __post_init__(self) -> None:
        if self.gpus is not None and self.processes is not None:
            raise ConfigError("either --gpus or --processes")
        elsewhere = self.nodes > 1 or self.node_rank or self.main_address is not None
        if elsewhere and not self.is_asked:
            raise ConfigError("--nodes, --node-rank and --main-address go with --gpus")

    @property
    def is_asked(self) -> bool:
        """Whether processes are to be started."""
        return self.gpus is not None or self.processes is not None


KEEP_TAU, KEEP_NDCG = 0.3, 0.5


ANSWERS = "answers.jsonl"


@dataclass(frozen=True, kw_only=True, slots=True)
class ReasonOptions:
    """Where reasoning lists come from, who orders them, and which are kept. ConfigError for what
    does not go together."""

    output: Annotated[Path, Option("The reasoning set's folder.", "DIR", flags=("--output", "-o"))]
    collection: Annotated[
        str | None,
        Option("A name of `dear collections`, or a folder.", "COLLECTION", argument=True),
    ] = None
    run: Annotated[
        str | None, Option("Candidates: a file, or one of the collection's runs.", "RUN")
    ] = None
    split: Annotated[str, Option("Of the run and the judgements.", "SPLIT")] = "train"
    labels: Annotated[
        Names, Option("The order: soft labels of `dear label`; several are summed.", "DIR")
    ] = ()
    weights: Annotated[
        tuple[float, ...], Option("One for each --labels.", "W", flags=("--weight",), shown="1")
    ] = ()
    teacher: Annotated[
        str | None, Option("Scores sentences, and passages where there are no labels.", "MODEL")
    ] = None
    llm: Annotated[
        str | None, Option("Writes thought and order instead of the teacher.", "BACKEND")
    ] = None
    ledger: Annotated[
        Path | None, Option("Where the LLM's answers are kept.", "FILE", shown=f"DIR/{ANSWERS}")
    ] = None
    source: Annotated[
        str | None,
        Option("Select from DeAR-COT rows, chats or lists instead.", "FILE", flags=("--from",)),
    ] = None
    shard: ShardOption = None
    join: Annotated[
        Path | None,
        Option("Write the set whose finished shards are the folders in DIR.", "DIR"),
    ] = None
    examples: Annotated[int, Option("Lists for each query.", "N", least=1)] = 1
    size: Annotated[str, Option("Passages in a list.", "N-N")] = "4-20"
    queries: Annotated[int | None, Option("At most N queries, evenly spread.", "N", least=1)] = None
    top_k: Annotated[int, Option("Candidates of a query to draw from.", "N", least=2)] = TOP_K
    seed: Annotated[int, Option("Of the lists.", "N")] = 0
    prompt: Annotated[str, Option("reasoning, list, rankvicuna or rankgpt.", "NAME")] = "reasoning"
    max_words: Annotated[
        int | None, Option("Words of a passage in a prompt.", "N", least=5, shown="the prompt's")
    ] = None
    evidence: Annotated[int, Option("Quote the best N passages.", "N", least=0)] = 3
    quote_words: Annotated[int, Option("Words of a quote, at most.", "N", least=5)] = 30
    keep_tau: Annotated[
        float | None,
        Option("Keep orders with Kendall's tau of T to the teacher.", "T", shown=f"{KEEP_TAU}"),
    ] = None
    keep_ndcg: Annotated[
        float | None,
        Option(
            "Keep orders with nDCG@10 of N by judgements.",
            "N",
            shown=f"{KEEP_NDCG} without a teacher",
        ),
    ] = None
    against: Annotated[
        Names, Option("One more whose test split may not leak in.", "COLLECTION")
    ] = ()
    leak_passages: Annotated[str, Option("Of test splits: relevant, judged or none.", "WHICH")] = (
        "relevant"
    )
    allow_leaks: Annotated[
        bool, Option("Look for no test data at all.", flags=("--allow-leaks",))
    ] = False
    place: PlaceOptions = PlaceOptions()
    model_options: ModelOptions = ModelOptions()

    def __post_init__(self) -> None:
        self._check_sources()
        if self.ledger and not self.llm:
            raise ConfigError("--ledger keeps the answers of an --llm")
        if self.weights and len(self.weights) != len(self.labels):
            raise ConfigError(
                f"{len(self.labels)} --labels, {len(self.weights)} --weight: one for each"
            )
        if self.teacher is not None:
            check_model(self.teacher)
        if self.place.far and self.llm is not None and not self.llm.startswith("local:"):
            raise ConfigError(
                f"--on ray is for --llm local:MODEL: {self.llm} answers elsewhere already, and "
                "several questions at once (concurrency)"
            )

    def _check_sources(self) -> None:
        if self.source is not None or self.join is not None:
            given: dict[str, Any] = {"--run": self.run, "--labels": self.labels, "--llm": self.llm}
            given |= {"--shard": self.shard, "--on ray": self.place.far}
            reads = "--from reads lists that are there"
            if self.join is not None:
                given |= {"COLLECTION": self.collection, "--teacher": self.teacher}
                given |= {"--from": self.source}
                reads = "--join reads shards that are finished"
            wrong = next((name for name, value in given.items() if value), None)
            if wrong is not None:
                raise ConfigError(f"{reads}: no {wrong} beside it")
        elif self.collection is None or self.run is None:
            missing = "a COLLECTION" if self.collection is None else "a --run"
            raise ConfigError(f"nothing to draw lists from: give {missing}, or --from FILE")
        elif self.llm is None and self.teacher is None:
            why = "to choose the evidence" if self.labels else "for the order and the evidence"
            raise ConfigError(
                f"no --teacher {why}: give one, such as biencoder:minilm-l6, or an --llm instead"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasureOptions:
    """By what runs are measured, and against which others."""

    measures: Annotated[
        Names,
        Option(
            "Such as MAP; may be repeated, the first is compared. Without it, nDCG@10 is.",
            "M",
            flags=("--measure",),
        ),
    ] = ()
    min_grade: Annotated[
        int | None,
        Option(
            "Lowest grade that is relevant in MRR, MAP, R: 1, unless the collection says another.",
            "N",
            least=1,
        ),
    ] = None
    first_stage: Annotated[
        str | None, Option("The run that was reranked, where nothing beside it says.", "RUN")
    ] = None
    across_candidates: Annotated[
        bool,
        Option("Compare runs over different candidates, too.", flags=("--across-candidates",)),
    ] = False
    published: Annotated[
        bool,
        Option("Put beside what others published; not measured here.", flags=("--published",)),
    ] = False


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateOptions:
    """Which runs are measured, and how."""

    collection: CollectionName
    runs: NamedRuns
    split: Annotated[str, Option("Whose judgements.", "SPLIT")] = "test"
    measuring: MeasureOptions = MeasureOptions()
    aggregate: Aggregate = None


@dataclass(frozen=True, kw_only=True, slots=True)
class CompareOptions:
    """Which two runs, and which queries: one by `query`, the `worst` or the `best`; without any,
    the one with the largest loss. ConfigError: several of the three."""

    collection: CollectionName
    run_a: Annotated[
        str, Option("A run's file, or one of the collection's own.", "[NAME=]RUN_A", argument=True)
    ]
    run_b: Annotated[str, Option("The run that is held against it.", "[NAME=]RUN_B", argument=True)]
    query: Annotated[
        str | None, Option("A query's id, or words of it.", "Q", shown="largest loss")
    ] = None
    worst: Annotated[
        int | None, Option("The N queries where B loses most against A.", "N", least=1)
    ] = None
    best: Annotated[int | None, Option("The N queries where B gains most.", "N", least=1)] = None
    top: Annotated[int, Option("Passages of each run.", "N", least=1)] = 10
    split: Annotated[str, Option("Of the run and the queries.", "SPLIT")] = "test"
    measure: Annotated[str | None, Option("Such as MRR@10.", "M", shown="the collection's")] = None

    def __post_init__(self) -> None:
        if sum(option is not None for option in (self.query, self.worst, self.best)) > 1:
            raise ConfigError("--query, --worst and --best each choose queries: give one of them")


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportOptions:
    """What a report shows and where it goes: a collection with its runs, or a `study` file.
    ConfigError: both, or neither."""

    output: Annotated[
        Path, Option("Ends in .html, .md or .tex (booktabs).", "OUTPUT", argument=True)
    ]
    collection: Annotated[
        str | None,
        Option("A name of `dear collections`, or a folder.", "[COLLECTION]", argument=True),
    ] = None
    runs: NamedRuns = ()
    study: Annotated[
        Path | None, Option("Collections and runs in a file, instead of the above.", "TOML")
    ] = None
    split: Annotated[str, Option("Whose judgements.", "SPLIT")] = "test"
    measuring: MeasureOptions = MeasureOptions()
    queries: Annotated[int, Option("Queries of each collection to browse.", "N", least=0)] = 50
    no_texts: Annotated[
        bool,
        Option("Ids instead of queries and passages, to pass it on.", flags=("--no-texts",)),
    ] = False
    title: Annotated[str | None, Option("", "TEXT")] = None
    also: Annotated[
        tuple[Path, ...], Option("The same in another form; repeatable.", "OUTPUT")
    ] = ()

    def __post_init__(self) -> None:
        if self.study is None:
            if self.collection is None:
                raise ConfigError("name a collection and its runs, or --study")
            if not self.runs:
                raise ConfigError("no run to report on; name one with --run")
            return
        given = {
            "COLLECTION": self.collection,
            "--run": self.runs,
            "--measure": self.measuring.measures,
            "--min-grade": self.measuring.min_grade,
            "--first-stage": self.measuring.first_stage,
        }
        both = next((name for name, value in given.items() if value), None)
        if both is not None:
            raise ConfigError(f"{both} and --study: the file says that")


def _counted(number: int, thing: str) -> str:
    return f"{number:,} {thing if number == 1 else thing + 's'}"
