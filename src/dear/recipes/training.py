"""What `dear train` reads: frozen dataclasses, one for each table of a recipe."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field

from dear.recipes.listwise import HeadsRecipe, ListwiseRecipe
from dear.recipes.values import STRICT, Count, CountOrNone, NotNegative, Positive, Share


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
    """One collection, or training rows, to train on; for a listwise model, lists instead.

    lists: files of `dear reason`, or folders with an `examples.jsonl`.
    rows: in Tevatron's layouts: a .jsonl, .jsonl.gz or .parquet file, a folder of them, or
        OWNER/NAME of the hub; see dear.data.training_rows.open_rows.
    corpus: the texts of rows by id, and of a run beside rows: a file, a folder, a collection.
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
    lists: tuple[str, ...] = ()
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


LIST_KINDS = ("listwise", "heads")
"""What trains on lists instead of pairs."""

_OF_PAIRS = ("contract", "groups", "loss", "dev")
FOREIGN_TABLES = {
    "pointwise": ("listwise", "heads"),
    "biencoder": ("listwise", "heads", "parallel"),
    "listwise": (*_OF_PAIRS, "heads"),
    "heads": (*_OF_PAIRS, "listwise", "train", "parallel"),
}
"""Kind → tables that mean nothing to it."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that one training run depends on, and how processes share it."""

    __pydantic_config__ = STRICT
    name: str
    kind: Literal["pointwise", "biencoder", "listwise", "heads"] = "pointwise"
    description: str = ""
    model: ModelRecipe
    data: tuple[DataRecipe, ...]
    contract: ContractRecipe = ContractRecipe()
    groups: GroupsRecipe = GroupsRecipe()
    loss: LossRecipe = LossRecipe()
    listwise: ListwiseRecipe = field(default_factory=ListwiseRecipe)
    heads: HeadsRecipe = field(default_factory=HeadsRecipe)
    dev: DevRecipe | None = None
    train: TrainRecipe = TrainRecipe()
    parallel: ParallelRecipe = ParallelRecipe()

    def to_dict(self) -> dict[str, Any]:
        """Plain values of what decides the weights: without `parallel`, so that a training may go
        on in other processes, and without what has nothing to do with the kind."""
        values = dataclasses.asdict(self)
        for table in {*FOREIGN_TABLES[self.kind], "parallel"}:
            del values[table]
        if self.kind in LIST_KINDS:
            values["data"] = [{"lists": source["lists"]} for source in values["data"]]
        else:
            for source in values["data"]:
                del source["lists"]
        return values
