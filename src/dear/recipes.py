"""Recipes: what to train, on what, how. TOML in, frozen dataclasses out, unknown keys refused."""

from __future__ import annotations

import dataclasses
import json
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from dear.errors import ConfigError, DataError, excerpt, nearest

T = TypeVar("T")
DISTILL = "distill/"
"""Where the recipes of `dear distill` are among those that ship."""

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)

Count = Annotated[int, Field(ge=1)]
CountOrNone = Annotated[int, Field(ge=0)]
"""0 switches it off."""
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
NotNegative = Annotated[float, Field(ge=0)]


@dataclass(frozen=True, kw_only=True)
class LoraRecipe:
    """A low-rank adapter (Hu et al. 2022) instead of full weights.

    merge: fold the adapter into the base when training is done, so that the checkpoint loads
        without peft; otherwise the checkpoint holds the adapter and the head alone.
    """

    __pydantic_config__ = _STRICT
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
    merge: bool = False


@dataclass(frozen=True, kw_only=True)
class ModelRecipe:
    """The weights to start from.

    base: a folder, a hub id or a name of `dear models`.
    layers: keep only these layers of the base (0 is the first); empty keeps all.
    dropout: for every dropout of the body; None leaves the base's own.
    dtype: of the weights in training. float32 with bfloat16 autocast is the safe choice.
    """

    __pydantic_config__ = _STRICT
    base: str
    layers: tuple[int, ...] = ()
    dropout: Share | None = 0.0
    dtype: Literal["float32", "bfloat16"] = "float32"
    lora: LoraRecipe | None = None


@dataclass(frozen=True, kw_only=True)
class ContractRecipe:
    """The scoring contract that the checkpoint will carry; see dear.models.contract."""

    __pydantic_config__ = _STRICT
    prompt: str = "dear"
    max_query_tokens: Count = 32
    max_passage_tokens: Count = 196
    append_eos: bool = False


@dataclass(frozen=True, kw_only=True)
class DataRecipe:
    """One collection to train on.

    run: a run's file, or the name of one of the collection's own runs.
    labels: folders of soft labels; several are ensembled with label_weights.
    label_scale: factor on the teacher's scores (a cosine needs about 20 to become a logit).
    judged: use the split's judgements; false trains on the teacher alone.
    """

    __pydantic_config__ = _STRICT
    collection: str
    split: str = "train"
    run: str = "bm25"
    labels: tuple[str, ...] = ()
    label_weights: tuple[float, ...] = ()
    label_scale: Positive = 1.0
    judged: bool = True
    queries: Count | None = None


@dataclass(frozen=True, kw_only=True)
class GroupsRecipe:
    """How training groups are drawn; see dear.data.groups.sample_groups."""

    __pydantic_config__ = _STRICT
    size: Count = 8
    positives: Count = 1
    per_query: Count = 1
    negatives: str = "spread"
    rank_from: Count = 1
    rank_to: Count = 100


@dataclass(frozen=True, kw_only=True)
class TermRecipe:
    """One named loss with its weight."""

    __pydantic_config__ = _STRICT
    name: str
    weight: NotNegative = 1.0
    options: dict[str, int | float | str | bool] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class LossRecipe:
    """DeAR's objective, (1 - alpha) * sum(main) + alpha * T^2 * KL, unless `terms` says else."""

    __pydantic_config__ = _STRICT
    main: tuple[str, ...] = ("ce",)
    alpha: Share = 0.1
    temperature: Positive = 2.0
    terms: tuple[TermRecipe, ...] = ()


@dataclass(frozen=True, kw_only=True)
class DevRecipe:
    """Queries on which nDCG@10 chooses the checkpoint and stops training early."""

    __pydantic_config__ = _STRICT
    collection: str
    split: str = "dev"
    run: str = "bm25"
    queries: Count = 100
    top_k: Count = 50


@dataclass(frozen=True, kw_only=True)
class TrainRecipe:
    """Steps and optimiser.

    groups_per_step: groups for each optimiser step, in `accumulate` forward-backward passes;
        what is learnt does not depend on `accumulate` (but for a biencoder, whose negatives are
        those of one pass).
    max_steps: replaces the epochs where it is above 0.
    head_learning_rate: of the module that makes the logit; None takes `learning_rate`.
    warmup: share of the steps if below 1, else a number of steps.
    autocast: compute in bfloat16 where the hardware has it.
    eval_steps: 0 evaluates at the end of each epoch. The last step is always evaluated.
    save_steps: 0 saves with every evaluation, or at the end of each epoch where there is no dev.
        The last step and the best evaluation so far are always saved.
    patience: evaluations without a better nDCG@10 before training stops; 0 never stops.
    report_to: "none", "tensorboard" (into `tensorboard/` in the checkpoint) or any integration
        that transformers knows.
    """

    __pydantic_config__ = _STRICT
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
    autocast: bool = True
    seed: CountOrNone = 42
    eval_steps: CountOrNone = 0
    save_steps: CountOrNone = 0
    patience: CountOrNone = 0
    log_steps: CountOrNone = 10
    report_to: str = "none"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that one training run depends on."""

    __pydantic_config__ = _STRICT
    name: str
    kind: Literal["pointwise", "biencoder"] = "pointwise"
    description: str = ""
    model: ModelRecipe
    data: tuple[DataRecipe, ...]
    contract: ContractRecipe = ContractRecipe()
    groups: GroupsRecipe = GroupsRecipe()
    loss: LossRecipe = LossRecipe()
    dev: DevRecipe | None = None
    train: TrainRecipe = TrainRecipe()

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def recipes_folder() -> Path:
    """The recipes that ship with the package."""
    packaged = Path(str(resources.files("dear"))) / "recipes_data"
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "recipes"


def shipped_recipes() -> dict[str, Path]:
    """Name (family/file without its ending) → path of every recipe that ships."""
    root = recipes_folder()
    return {p.relative_to(root).with_suffix("").as_posix(): p for p in sorted(root.rglob("*.toml"))}


@dataclass(frozen=True, kw_only=True)
class TeacherStage:
    """Where a distillation's soft labels come from.

    zero_shot: the teacher where nothing is judged, as `dear label --model` names it.
    model: the weights of a bi-encoder teacher that is trained where there are judgements; None
        never trains one.
    queries: training queries for it, None takes all.
    first_stage: weight of the first stage's score in the ensemble with the teacher (0: none).
    scale: factor on the ensemble's z-scores, which makes them logits.
    """

    __pydantic_config__ = _STRICT
    zero_shot: str
    model: ModelRecipe | None = None
    contract: ContractRecipe = ContractRecipe()
    groups: GroupsRecipe = GroupsRecipe()
    train: TrainRecipe = TrainRecipe()
    queries: Count | None = None
    first_stage: NotNegative = 0.3
    scale: Positive = 3.0


@dataclass(frozen=True, kw_only=True)
class StudentStage:
    """The student, and the queries that it is distilled on (None: all).

    from_teacher: start from the encoder of a teacher that was trained here, in place of
        model.base. The control always starts from model.base: it knows nothing of the teacher.
    """

    __pydantic_config__ = _STRICT
    model: ModelRecipe
    from_teacher: bool = False
    contract: ContractRecipe = ContractRecipe()
    groups: GroupsRecipe = GroupsRecipe()
    loss: LossRecipe = LossRecipe()
    train: TrainRecipe = TrainRecipe()
    queries: Count | None = None


@dataclass(frozen=True, kw_only=True)
class TestStage:
    """What is reranked in the end. queries: a fixed sample where there are more; None: all."""

    __pydantic_config__ = _STRICT
    queries: Count | None = 500
    top_k: Count = 100


@dataclass(frozen=True, kw_only=True)
class DistillRecipe:
    """The whole way from a collection to a student, for `dear distill`.

    depth: candidates of each training query that the first stage gives and the teacher labels.
    control: also train the student without the teacher, to see what the teacher was worth.
    """

    __pydantic_config__ = _STRICT
    name: str
    description: str = ""
    depth: Count = 50
    control: bool = True
    teacher: TeacherStage
    student: StudentStage
    test: TestStage = TestStage()

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def load_recipe(path: Path | str, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe from a TOML file, or from the name of one that ships.

    overrides: `key.path=value`, the value in TOML notation (a bare word is a string), list items
    by number: `train.epochs=2`, `data.0.labels=["labels/a"]`.
    Raises ConfigError for an unknown key (with the nearest known one) or a wrong value, and
    DataError for a file that is no TOML.
    """
    return parse_recipe(_read(path, overrides), where=str(path))


def load_distill_recipe(path: Path | str, overrides: Sequence[str] = ()) -> DistillRecipe:
    """As `load_recipe`, for `dear distill`; shipped ones may be named without `distill/`."""
    if not Path(path).is_file() and f"{DISTILL}{path}" in shipped_recipes():
        path = f"{DISTILL}{path}"
    return _parse(DistillRecipe, _read(path, overrides), str(path))


def parse_recipe(values: Mapping[str, Any], *, where: str = "recipe") -> Recipe:
    """A recipe from plain values; errors as `load_recipe`."""
    recipe = _parse(Recipe, values, where)
    if not recipe.data:
        raise ConfigError(f"{where}: data: name at least one collection to train on")
    return recipe


def _read(path: Path | str, overrides: Sequence[str]) -> dict[str, Any]:
    file = _find(path)
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError.at(file, None, f"not TOML: {error}") from None
    for override in overrides:
        _override(values, override)
    return values


def _parse(kind: type[T], values: Mapping[str, Any], where: str) -> T:
    _refuse_unknown(kind, values, where, "")
    try:
        # as JSON: there a list may become a tuple, and a string or a bool never becomes a number
        return TypeAdapter(kind).validate_json(json.dumps(values), strict=True)
    except TypeError:
        raise ConfigError(f"{where}: dates and times mean nothing in a recipe") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        given = "" if first["type"] == "missing" else f", got {_shown(first['input'])}"
        raise ConfigError(f"{where}: {key}: {first['msg']}{given}") from None


def _shown(value: Any) -> str:
    return excerpt(value) if isinstance(value, str) else repr(value)[:60]


def _find(path: Path | str) -> Path:
    file = Path(path)
    if file.is_file():
        return file
    shipped = shipped_recipes()
    if str(path) in shipped:
        return shipped[str(path)]
    raise ConfigError(f"no recipe {str(path)!r}: no such file{nearest(str(path), shipped)}")


def _override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {override!r}: expected key=value")
    try:
        value = tomllib.loads(f"x = {text}")["x"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    *parents, last = (part.strip() for part in key.split("."))
    place: Any = values
    for depth, part in enumerate(parents, 1):
        place = (
            place[_index(place, part, override)]
            if isinstance(place, list)
            else (place.setdefault(part, {}))
        )
        if not isinstance(place, dict | list):
            raise ConfigError(f"--set {override!r}: {'.'.join(parents[:depth])} is a plain value")
    if isinstance(place, list):
        place[_index(place, last, override)] = value
    else:
        place[last] = value


def _index(items: list[Any], part: str, override: str) -> int:
    if not part.isdigit() or int(part) >= len(items):
        raise ConfigError(f"--set {override!r}: {part!r} is no position in a list of {len(items)}")
    return int(part)


def _refuse_unknown(kind: type, values: Mapping[str, Any], where: str, prefix: str) -> None:
    """ConfigError for a key that the dataclass does not have, all the way down."""
    hints = typing.get_type_hints(kind)
    known = {f.name: hints[f.name] for f in dataclasses.fields(kind)}
    for key, value in values.items():
        if key not in known:
            raise ConfigError(f"{where}: unknown key {prefix + key!r}{nearest(key, known)}")
        inner = _dataclass_in(known[key])
        if inner is None:
            continue
        if isinstance(value, Mapping):
            _refuse_unknown(inner, value, where, f"{prefix}{key}.")
        elif isinstance(value, list):
            for index, item in enumerate(value):
                if isinstance(item, Mapping):
                    _refuse_unknown(inner, item, where, f"{prefix}{key}.{index}.")


def _dataclass_in(hint: Any) -> type | None:
    """The dataclass inside `X`, `X | None` or `tuple[X, ...]`."""
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return hint
    if typing.get_origin(hint) in (tuple, types.UnionType, typing.Union):
        for part in typing.get_args(hint):
            found = _dataclass_in(part)
            if found is not None:
                return found
    return None
