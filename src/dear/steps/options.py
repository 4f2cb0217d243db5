"""Options of steps: frozen dataclasses whose fields say what they mean, for notebooks and the
command line alike. This module imports nothing heavy: help pages are made of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from dear.checkpoints.contract import read_contract
from dear.checkpoints.registry import check_model
from dear.errors import ConfigError

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


CollectionRuns: TypeAlias = Annotated[
    Names,
    Option(
        "A run's file, or one of the collection's own; may be repeated.", "RUN", flags=("--run",)
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
    model_options: ModelOptions = ModelOptions()

    def __post_init__(self) -> None:
        for name in self.models:
            check_model(name)
        if self.weights and len(self.weights) != len(self.models):
            raise ConfigError(
                f"{_counted(len(self.models), 'teacher')}, {_counted(len(self.weights), 'weight')}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainOptions:
    """What is trained, and where the checkpoint goes."""

    recipe: Annotated[
        str, Option("A TOML file, or the name of a shipped recipe.", "RECIPE", argument=True)
    ]
    output: Annotated[Path, Option("The checkpoint's folder.", "DIR", flags=("--output", "-o"))]
    changes: Annotated[
        Names, Option("Change the recipe: train.epochs=2.", "KEY=VALUE", flags=("--set",))
    ] = ()


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

    def _check_sources(self) -> None:
        if self.source is not None:
            given = {"--run": self.run, "--labels": self.labels, "--llm": self.llm}
            wrong = next((name for name, value in given.items() if value), None)
            if wrong is not None:
                raise ConfigError(f"--from reads lists that are there: no {wrong} beside it")
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
    runs: CollectionRuns
    split: Annotated[str, Option("Whose judgements.", "SPLIT")] = "test"
    measuring: MeasureOptions = MeasureOptions()


@dataclass(frozen=True, kw_only=True, slots=True)
class CompareOptions:
    """Which two runs, and which queries: one by `query`, the `worst` or the `best`; without any,
    the one with the largest loss. ConfigError: several of the three."""

    collection: CollectionName
    run_a: Annotated[
        str, Option("A run's file, or one of the collection's own.", "RUN_A", argument=True)
    ]
    run_b: Annotated[str, Option("The run that is held against it.", "RUN_B", argument=True)]
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
    runs: Annotated[
        Names,
        Option(
            "A run's file, or one of the collection's own; may be repeated.",
            "[NAME=]RUN",
            flags=("--run",),
        ),
    ] = ()
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
