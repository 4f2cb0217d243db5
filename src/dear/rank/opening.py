"""Open what ranks from what a user types: a model, a listwise backend, or a table of both."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dear import backends, listwise, scoring
from dear.backends import BACKENDS, Backend, check_backend, open_backend
from dear.checkpoints.registry import BUILT_IN
from dear.data.documents import Documents, check_aggregate
from dear.errors import ConfigError, DataError, nearest
from dear.listwise.strategies import Strategy, open_strategy
from dear.prompts.listwise import LISTWISE_PROMPTS
from dear.rank.built_in import built_in
from dear.rank.cascade import DEPTH, Cascade
from dear.rank.fusion import check_weight
from dear.rank.listwise import ListwiseRanker
from dear.rank.mixture import MixtureRanker
from dear.rank.passages import BestPassage
from dear.rank.pointwise import PointwiseRanker
from dear.rank.ranker import Ranker

if TYPE_CHECKING:
    from dear.scoring.opening import PairModel


@dataclass(frozen=True, kw_only=True, slots=True)
class RankerSpec:
    """What to rank with. It checks itself, before anything is opened.

    model:    scores pairs: a folder, hub id, name or zero-shot reading (dear.scoring.opening).
    mixture:  models that score pairs, with weights: their z-scores are added (dear.rank.mixture).
    listwise: orders lists: `local:MODEL`, `http://HOST/v1`, `openai:MODEL`, … (dear.backends), or
              a folder of a listwise checkpoint. With a model, it reranks the model's best `depth`.
    prompt, strategy, window, step, depth, guard: of the listwise stage; see ListwiseRanker. depth:
              DEPTH behind a model, else all.
    kind:     a key of RANKERS; where None, the one that what is named makes.
    fuse:     weight of the score of the stage before: the first stage's beside the model's, or,
              with a listwise stage, that of what it reranks.
    name:     of a mixture, in place of its parts' names.
    aggregate: "max" where candidates are passages of documents, and documents are ranked by their
              best passage (dear.rank.passages).
    """

    model: str | None = None
    mixture: Mapping[str, float] | None = None
    listwise: str | None = None
    prompt: str | None = None
    strategy: str = "sliding"
    window: int = 20
    step: int = 10
    depth: int | None = None
    guard: bool = False
    fuse: float = 0.0
    kind: str | None = None
    name: str | None = None
    aggregate: str | None = None

    def __post_init__(self) -> None:
        if self.kind is not None and self.kind not in RANKERS:
            raise ConfigError(f"no kind of ranker {self.kind!r}{nearest(self.kind, RANKERS)}")
        if self.kind is None:
            object.__setattr__(self, "kind", self._kind_by_parts())
        check_weight(self.fuse)
        if self.mixture is not None:
            self._check_mixture(self.mixture)
        check_aggregate(self.aggregate)
        if self.listwise is None:
            for name in ("prompt", "depth", "guard"):
                if getattr(self, name):
                    raise ConfigError(f"{name} is for a listwise backend: name one")
            return
        if self.depth is not None and self.depth < 1:
            raise ConfigError(f"depth must be 1 or more, not {self.depth}")
        object.__setattr__(self, "listwise", _backend_named(self.listwise))
        check_backend(self.listwise)
        if self.prompt is not None:
            self._check_prompt(self.prompt)
        open_strategy(self.strategy, window=self.window, step=self.step)
        if self.model is not None and self.depth is None:
            object.__setattr__(self, "depth", DEPTH)

    def _check_mixture(self, mixture: Mapping[str, float]) -> None:
        if self.model is not None or self.listwise is not None:
            raise ConfigError("a mixture has no other model beside it: name one or the other")
        if not isinstance(mixture, Mapping) or not mixture:
            raise ConfigError("mixture: names of models, each with its weight")
        for name, weight in mixture.items():
            if isinstance(weight, bool) or not isinstance(weight, int | float):
                raise ConfigError(f"mixture: the weight of {name} is {weight!r}")
            check_weight(weight)

    def _kind_by_parts(self) -> str:
        if self.mixture is not None:
            return "mixture"
        if self.listwise is not None:
            return "listwise" if self.model is None else "cascade"
        if self.model is None:
            raise ConfigError("nothing to rank with: give a model, a listwise backend, or both")
        return "pointwise"

    def _check_prompt(self, prompt: str) -> None:
        if prompt not in LISTWISE_PROMPTS:
            raise ConfigError(f"prompt {prompt!r}{nearest(prompt, LISTWISE_PROMPTS)}")
        if LISTWISE_PROMPTS[prompt].ends and not self.is_local:
            raise ConfigError(
                f"prompt {prompt!r} does not say what to answer: only a local model that was "
                "trained on it can read it"
            )

    @property
    def is_local(self) -> bool:
        """Whether the listwise model computes in this process."""
        return self.listwise is not None and self.listwise.startswith("local:")

    def open_strategy(self) -> Strategy:
        return open_strategy(self.strategy, window=self.window, step=self.step)

    @classmethod
    def of(cls, spec: str | Path | Mapping[str, Any]) -> RankerSpec:
        """From a name, a TOML file, or a table of this class's fields.

        A name is a model's, or a listwise backend's where it begins with its kind. A file's paths
        are relative to the working directory, as on the command line. ConfigError: an unknown
        key; DataError: a file that is no TOML.
        """
        if isinstance(spec, Mapping):
            known = {f.name for f in fields(cls)}
            for key in spec:
                if key not in known:
                    raise ConfigError(f"{key!r} says nothing about a ranker{nearest(key, known)}")
            return cls(**spec)
        name = str(spec)
        if name.endswith(".toml"):
            try:
                table = tomllib.loads(Path(name).read_text("utf-8"))
            except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
                raise DataError(f"{name}: {error}") from None
            return cls.of(table)
        if name == BUILT_IN:
            return cls(**built_in())
        kind = name.partition(":")[0]
        if kind in BACKENDS and not Path(name).exists():
            return cls(listwise=name)
        return cls(model=name)


def open_ranker(
    spec: str | Path | Mapping[str, Any] | RankerSpec | PairModel | Ranker, **options: Any
) -> Ranker:
    """What ranks, from what a user types.

        open_ranker("runs/student")
        open_ranker("openai:gpt-5-mini")
        open_ranker("cascade.toml")
        open_ranker({"model": "runs/student", "listwise": "local:runs/lists", "depth": 20})

    spec: see `RankerSpec.of`; what is open already, a model or a ranker, is passed through.
    options: of `dear.scoring.opening.open_model`, for models in this process. With two of them that
        sit on one base, the base is in memory once, if no option is for the pointwise one alone.
    """
    if hasattr(spec, "rank_candidates"):
        return spec  # type: ignore[return-value]
    if not isinstance(spec, str | Path | Mapping | RankerSpec):
        return PointwiseRanker(spec)
    if not isinstance(spec, RankerSpec):
        spec = RankerSpec.of(spec)
    return assemble(spec, open_parts(spec, options))


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """What a ranker is made of, open.

    points: scores pairs.  mixed: models with their weights.  lists: orders windows.
    one_backbone: both sit on one base, which is in memory once.
    documents: passage id → document id, for `aggregate`; by the ids where None.
    """

    points: PairModel | None = None
    mixed: tuple[tuple[PairModel, float], ...] = ()
    lists: Backend | None = None
    one_backbone: bool = False
    documents: Documents | None = None


def _pointwise(spec: RankerSpec, parts: Parts) -> Ranker:
    assert parts.points is not None
    ranker = PointwiseRanker(parts.points)
    return MixtureRanker([(ranker, 1.0)], spec.fuse) if spec.fuse else ranker


def _mixture(spec: RankerSpec, parts: Parts) -> Ranker:
    rankers = [(PointwiseRanker(model), weight) for model, weight in parts.mixed]
    return MixtureRanker(rankers, spec.fuse, name=spec.name)


def _listwise(spec: RankerSpec, parts: Parts) -> ListwiseRanker:
    assert parts.lists is not None
    return ListwiseRanker(
        parts.lists,
        strategy=spec.open_strategy(),
        prompt=spec.prompt,
        depth=spec.depth,
        fuse_weight=spec.fuse,
        guard=spec.guard,
    )


def _cascade(spec: RankerSpec, parts: Parts) -> Ranker:
    assert parts.points is not None
    first = PointwiseRanker(parts.points)
    return Cascade(first, _listwise(spec, parts), one_backbone=parts.one_backbone)


RANKERS: dict[str, Callable[[RankerSpec, Parts], Ranker]] = {
    "pointwise": _pointwise,
    "mixture": _mixture,
    "listwise": _listwise,
    "cascade": _cascade,
}
"""Kind of a ranker → what makes it of a spec and its open parts."""


def assemble(spec: RankerSpec, parts: Parts) -> Ranker:
    """The ranker that `spec` describes, of parts that are open."""
    assert spec.kind is not None
    ranker = RANKERS[spec.kind](spec, parts)
    return ranker if spec.aggregate is None else BestPassage(ranker, parts.documents)


def open_parts(spec: RankerSpec, options: Mapping[str, Any]) -> Parts:
    """The model and the backend that `spec` names. options: as for `open_ranker`."""
    options = {key: value for key, value in options.items() if value is not None}
    shared = {k: v for k, v in options.items() if k in ("dtype", "device", "batch_tokens")}

    def points() -> PairModel | None:
        return None if spec.model is None else scoring.opening.open_model(spec.model, **options)

    if spec.mixture is not None:
        opened = scoring.opening.open_model
        return Parts(mixed=tuple((opened(m, **options), w) for m, w in spec.mixture.items()))
    if spec.listwise is None:
        return Parts(points=points())
    if not spec.is_local:
        return Parts(points=points(), lists=open_backend(spec.listwise))
    where = spec.listwise.partition(":")[2]
    if spec.model is None:
        revision = options.get("revision")
        return Parts(lists=backends.local.open_local(where, **shared, revision=revision))
    name, reading = backends.local.split_reading(where)
    has_kind = ":" in spec.model and not Path(spec.model).exists()
    may_share = options.keys() <= shared.keys() and not has_kind
    if may_share and listwise.backbone.share_base(spec.model, name):
        backbone = listwise.backbone.Backbone(spec.model, name, reading=reading, **shared)
        lists = backends.local.Local(backbone.lists)
        return Parts(points=backbone.pairs, lists=lists, one_backbone=True)
    return Parts(points=points(), lists=backends.local.open_local(where, **shared))


def _backend_named(listwise: str) -> str:
    """A folder or name without a kind is a local model."""
    kind, colon, _ = listwise.partition(":")
    if (not colon and not Path(listwise).is_file()) or (
        kind not in BACKENDS and Path(listwise).is_dir()
    ):
        return f"local:{listwise}"
    return listwise
