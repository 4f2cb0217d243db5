"""What `dear distill` reads."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from dear.recipes.training import (
    ContractRecipe,
    GroupsRecipe,
    LossRecipe,
    ModelRecipe,
    TrainRecipe,
)
from dear.recipes.values import STRICT, Count, CountOrNone, NotNegative, Positive


@dataclass(frozen=True, kw_only=True)
class TeacherStage:
    """Where a distillation's soft labels come from.

    zero_shot: the teacher where nothing is judged, as `dear label --model` names it.
    model: the weights of a bi-encoder teacher that is trained where there are judgements; None
        never trains one.
    strongest: take the strongest public model on this machine that labels in `minutes` instead;
        these two where there is none.
    queries: training queries for it, None takes all.
    first_stage: weight of the first stage's score in the ensemble with the teacher (0: none).
    scale: factor on the ensemble's z-scores, which makes them logits.
    """

    __pydantic_config__ = STRICT
    zero_shot: str
    model: ModelRecipe | None = None
    strongest: bool = False
    minutes: NotNegative = 30.0
    contract: ContractRecipe = field(default_factory=ContractRecipe)
    groups: GroupsRecipe = field(default_factory=GroupsRecipe)
    train: TrainRecipe = field(default_factory=TrainRecipe)
    queries: Count | None = None
    first_stage: NotNegative = 0.3
    scale: Positive = 3.0


@dataclass(frozen=True, kw_only=True)
class StudentStage:
    """The student, and the queries that it is distilled on (None: all).

    kind: a cross-encoder, or a bi-encoder.
    from_teacher: start from the encoder of a teacher that was trained here, in place of
        model.base. The control does the same, so that the labels alone make the difference.
    of_first_stage: train one, too, where nothing is judged and all that could teach it are the
        scores of a hybrid first stage, which costs milliseconds itself.
    """

    __pydantic_config__ = STRICT
    model: ModelRecipe
    kind: Literal["pointwise", "biencoder"] = "pointwise"
    from_teacher: bool = False
    of_first_stage: bool = True
    contract: ContractRecipe = field(default_factory=ContractRecipe)
    groups: GroupsRecipe = field(default_factory=GroupsRecipe)
    loss: LossRecipe = field(default_factory=LossRecipe)
    train: TrainRecipe = field(default_factory=TrainRecipe)
    queries: Count | None = None


@dataclass(frozen=True, kw_only=True)
class TestStage:
    """What is reranked in the end. queries: a fixed sample where there are more; None: all."""

    __pydantic_config__ = STRICT
    queries: Count | None = 500
    top_k: Count = 100


@dataclass(frozen=True, kw_only=True)
class DistillRecipe:
    """The whole way from a collection to a student, for `dear distill`.

    depth: candidates of each training query that the first stage gives and the teacher labels.
    dense: a bi-encoder. A collection of at most `dense_passages` is searched by BM25 and its
        embeddings together, weighted as `teacher.first_stage` says; others by BM25.
    made_queries: made from the documents where the collection has too few to learn from; 0: none.
    others: public rerankers on this machine that are measured, too, where test queries are judged
        and each ranks them in a tenth of `teacher.minutes`; the strongest ones.
    control: also train the student without labels, from the same start, to see what they are worth.
    """

    __pydantic_config__ = STRICT
    name: str
    description: str = ""
    depth: Count = 50
    dense: str = ""
    dense_passages: CountOrNone = 30000
    made_queries: CountOrNone = 1000
    others: CountOrNone = 3
    control: bool = True
    teacher: TeacherStage
    student: StudentStage
    test: TestStage = TestStage()

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


UNJUDGED = "folder"
"""The recipe for collections without judgements to train on."""
SHORT, LONG = "quick", "laptop"
"""The recipes of the demo; see `fitting_recipe`."""
CORES_WITH, CORES_WITHOUT = 4, 8
"""Cores, with bfloat16 and without, that should walk LONG in ten minutes: reckoned from two."""


def fitting_recipe(cores: int, *, bfloat16: bool, gpu: bool) -> str:
    """LONG where this hardware walks it in about ten minutes, SHORT elsewhere.

    Decided by what the machine has, not by how fast it just was, so that the same machine always
    takes the same one.
    """
    return LONG if gpu or cores >= (CORES_WITH if bfloat16 else CORES_WITHOUT) else SHORT
