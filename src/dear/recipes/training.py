"""What `dear train` reads: one frozen dataclass for each kind of recipe, one for each table."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field

from dear.recipes.listwise import HeadsTable, ListwiseTable
from dear.recipes.values import (
    STRICT,
    Count,
    CountOrNone,
    Inapplicable,
    NotNegative,
    Positive,
    Share,
)


@dataclass(frozen=True, kw_only=True)
class LoraRecipe:
    """A low-rank adapter (Hu et al. 2022) instead of full weights.

    last_layers: only so many layers are adapted, those nearest to the head, and the backward pass
        ends at the first of them; 0 for all.
    merge: fold the adapter into the base when training is done, so that the checkpoint loads
        without peft; otherwise the checkpoint holds the adapter and the head alone.
    """

    __pydantic_config__ = STRICT
    rank: Count = 16
    alpha: Positive = 32.0
    dropout: Share = 0.0
    targets: tuple[str, ...] = (
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    )
    last_layers: Annotated[int, Field(ge=0)] = 0
    merge: bool = False


@dataclass(frozen=True, kw_only=True)
class ModelRecipe:
    """The weights to start from.

    base: a folder, a hub id or a name of `dear models`.
    layers: keep only these layers of the base (0 is the first); empty keeps all.
    dropout: for every dropout of the body; None leaves the base's own.
    dtype: of the weights in training. float32 with bfloat16 autocast is the safe choice.
    quantise: the base in 4 bits ("nf4") or 8 ("int8"), under an adapter that is trained (QLoRA,
        Dettmers et al. 2023).
    """

    __pydantic_config__ = STRICT
    base: str
    layers: tuple[int, ...] = ()
    dropout: Share | None = 0.0
    dtype: Literal["float32", "bfloat16"] = "float32"
    quantise: Literal["none", "nf4", "int8"] = "none"
    lora: LoraRecipe | None = None


@dataclass(frozen=True, kw_only=True)
class ContractRecipe:
    """The scoring contract that the checkpoint will carry; see dear.checkpoints.contract."""

    __pydantic_config__ = STRICT
    prompt: str = "dear"
    max_query_tokens: Count = 32
    max_passage_tokens: Count = 196
    append_eos: bool = False


@dataclass(frozen=True, kw_only=True)
class DataRecipe:
    """One collection, or training rows, to train on.

    rows: in Tevatron's layouts: a .jsonl, .jsonl.gz or .parquet file, a folder of them, or
        OWNER/NAME of the hub; see dear.data.training_rows.open_rows.
    corpus: the texts of rows by id, and of a run given with rows: a file, a folder, a collection.
    negatives_from: the row's own negatives, those of `run` in their place, or both.
    run: a run's file, or the name of one of the collection's own runs.
    exclude: test collections whose queries are left out, NAME or NAME@SPLIT; "present" names all
        that are on this machine.
    labels: folders of soft labels; several are ensembled with label_weights.
    label_scale: factor on the teacher's scores (a cosine needs about 20 to become a logit).
    judged: use the split's judgements; false trains on the teacher alone.
    """

    __pydantic_config__ = STRICT
    collection: str = ""
    rows: str = ""
    corpus: str = ""
    negatives_from: Literal["rows", "run", "both"] = "rows"
    split: str = "train"
    run: str = "bm25"
    labels: tuple[str, ...] = ()
    label_weights: tuple[float, ...] = ()
    label_scale: Positive = 1.0
    judged: bool = True
    queries: Count | None = None
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        # what a recipe says in full is no fault
        given = {f.name for f in dataclasses.fields(self) if getattr(self, f.name) != f.default}
        if not self.rows:
            if not self.collection:
                raise Inapplicable("collection: Field required (or rows)")
            for key in ("corpus", "negatives_from"):
                if key in given:
                    raise Inapplicable(f"{key}: applies to `rows` only")
            return
        for key in ("collection", "judged"):
            if key in given:
                raise Inapplicable(f"{key}: does not apply to `rows`")
        if "run" in given and self.negatives_from == "rows":
            raise Inapplicable('run: say what it is for: negatives_from = "run" or "both"')
        if self.negatives_from != "rows" and "run" not in given:
            raise Inapplicable("run: Field required, a run's file")


@dataclass(frozen=True, kw_only=True)
class ListDataRecipe:
    """Lists to train on: files of `dear reason`, or folders with an `examples.jsonl`."""

    __pydantic_config__ = STRICT
    lists: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.lists:
            raise Inapplicable("lists: name at least one file")


@dataclass(frozen=True, kw_only=True)
class GroupsRecipe:
    """How training groups are drawn; see dear.data.groups.sample_groups.

    drop_same_text: a candidate with the normalised text of a relevant passage is no negative.
    """

    __pydantic_config__ = STRICT
    size: Count = 8
    positives: Count = 1
    per_query: Count = 1
    negatives: str = "spread"
    rank_from: Count = 1
    rank_to: Count = 100
    shuffle_positives: bool = True
    min_margin: float | None = None
    drop_same_text: bool = True


@dataclass(frozen=True, kw_only=True)
class TermRecipe:
    """One named loss with its weight."""

    __pydantic_config__ = STRICT
    name: str
    weight: NotNegative = 1.0
    options: dict[str, int | float | str | bool] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class LossRecipe:
    """DeAR's objective, (1 - alpha) * sum(main) + alpha * T^2 * KL, unless `terms` says else."""

    __pydantic_config__ = STRICT
    main: tuple[str, ...] = ("ce",)
    alpha: Share = 0.1
    temperature: Positive = 2.0
    terms: tuple[TermRecipe, ...] = ()


@dataclass(frozen=True, kw_only=True)
class DevRecipe:
    """Queries on which nDCG@10 chooses the checkpoint and stops training early."""

    __pydantic_config__ = STRICT
    collection: str
    split: str = "dev"
    run: str = "bm25"
    queries: Count = 100
    top_k: Count = 50


@dataclass(frozen=True, kw_only=True)
class TrainRecipe:
    """Steps and optimiser.

    groups_per_step: groups (or lists) for each optimiser step, in `accumulate` forward-backward
        passes; what is learnt does not depend on `accumulate` (but for a biencoder, whose negatives
        are those of one pass).
    max_steps: replaces the epochs where it is above 0.
    head_learning_rate: of the module that makes the logit; None takes `learning_rate`.
    warmup: share of the steps if below 1, else a number of steps.
    activation_offload: keep what `gradient_checkpointing` saves in the computer's memory instead of
        the GPU's.
    autocast: compute in bfloat16 where the hardware has it.
    eval_steps: 0 evaluates at the end of each epoch. The last step is always evaluated.
    save_steps: 0 saves with every evaluation, or at the end of each epoch where there is no dev.
        The last step and the best evaluation so far are always saved.
    patience: evaluations without a better nDCG@10 before training stops; 0 never stops.
    report_to: "none", "tensorboard" (into `tensorboard/` in the checkpoint) or any integration
        that transformers knows.
    """

    __pydantic_config__ = STRICT
    epochs: Positive = 1.0
    max_steps: CountOrNone = 0
    learning_rate: Positive = 1e-4
    head_learning_rate: Positive | None = None
    groups_per_step: Count = 16
    accumulate: Count = 1
    warmup: NotNegative = 0.1
    scheduler: str = "linear"
    weight_decay: NotNegative = 0.01
    max_grad_norm: NotNegative = 1.0
    gradient_checkpointing: bool = False
    activation_offload: bool = False
    autocast: bool = True
    seed: CountOrNone = 42
    eval_steps: CountOrNone = 0
    save_steps: CountOrNone = 0
    patience: CountOrNone = 0
    log_steps: CountOrNone = 10
    report_to: str = "none"


@dataclass(frozen=True, kw_only=True)
class ParallelRecipe:
    """How several processes share one training; nothing of it changes what is learnt.

    strategy: "ddp" copies the model to every process. "fsdp2" lays weights, gradients and the
        optimiser's state over all of them; so does "zero3" (DeepSpeed), while "zero2" leaves the
        weights whole.
    cpu_offload: shards wait in the computer's memory instead of the GPU's.
    """

    __pydantic_config__ = STRICT
    strategy: Literal["ddp", "fsdp2", "zero2", "zero3"] = "ddp"
    cpu_offload: bool = False


@dataclass(frozen=True, kw_only=True)
class _AnyRecipe:
    """Everything that one training run depends on, and how processes share it."""

    __pydantic_config__ = STRICT
    name: str
    kind: str
    description: str = ""
    model: ModelRecipe

    def to_dict(self) -> dict[str, Any]:
        """Plain values of what decides the weights: without `parallel`, so that a training may go
        on in other processes."""
        values = dataclasses.asdict(self)
        values.pop("parallel", None)
        return values


@dataclass(frozen=True, kw_only=True)
class _OfPairs(_AnyRecipe):
    """What trains on groups of a query's passages."""

    data: tuple[DataRecipe, ...]
    contract: ContractRecipe = ContractRecipe()
    groups: GroupsRecipe = GroupsRecipe()
    loss: LossRecipe = LossRecipe()
    dev: DevRecipe | None = None
    train: TrainRecipe = TrainRecipe()


@dataclass(frozen=True, kw_only=True)
class PointwiseRecipe(_OfPairs):
    """A cross-encoder with a one-logit head."""

    kind: Literal["pointwise"] = "pointwise"
    parallel: ParallelRecipe = ParallelRecipe()


@dataclass(frozen=True, kw_only=True)
class BiencoderRecipe(_OfPairs):
    """An encoder of queries and passages; one process trains it, and no dev chooses its weights."""

    kind: Literal["biencoder"] = "biencoder"
    dev: None = None


@dataclass(frozen=True, kw_only=True)
class ListwiseRecipe(_AnyRecipe):
    """A generative model that writes the order of a list."""

    kind: Literal["listwise"] = "listwise"
    data: tuple[ListDataRecipe, ...]
    listwise: ListwiseTable = field(default_factory=ListwiseTable)
    train: TrainRecipe = TrainRecipe()
    parallel: ParallelRecipe = ParallelRecipe()


@dataclass(frozen=True, kw_only=True)
class HeadsRecipe(_AnyRecipe):
    """Weights of a generative model's attention heads; the model itself stays as it is."""

    kind: Literal["heads"] = "heads"
    data: tuple[ListDataRecipe, ...]
    heads: HeadsTable = field(default_factory=HeadsTable)

    def __post_init__(self) -> None:
        if self.model != ModelRecipe(base=self.model.base):
            raise Inapplicable("model: weights of heads need a `base` alone")


PairRecipe: TypeAlias = PointwiseRecipe | BiencoderRecipe
GradientRecipe: TypeAlias = PairRecipe | ListwiseRecipe
"""What an optimiser trains."""
Recipe: TypeAlias = GradientRecipe | HeadsRecipe
RECIPES: dict[str, type[Recipe]] = {
    "pointwise": PointwiseRecipe,
    "biencoder": BiencoderRecipe,
    "listwise": ListwiseRecipe,
    "heads": HeadsRecipe,
}
"""By kind."""


def parallel_of(recipe: GradientRecipe) -> ParallelRecipe:
    """How processes share it; the default where the kind has no say."""
    return ParallelRecipe() if isinstance(recipe, BiencoderRecipe) else recipe.parallel
