"""What a report is made from: a study for each collection, and what else is known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from dear.evaluate.published import PublishedRow
from dear.evaluate.study import Entry, Study
from dear.records import Passage


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What a run took; None where nobody measured it.

    queries: that were ranked in `seconds`.  memory_mib: the most the process held, in 2**20
    bytes.
    """

    seconds: float | None = None
    queries: float | None = None
    pairs: float | None = None
    windows: float | None = None
    calls: float | None = None
    tokens: float | None = None
    parameters: float | None = None
    memory_mib: float | None = None
    joules: float | None = None
    dollars: float | None = None

    @property
    def ms_per_query(self) -> float | None:
        return _ratio(self.seconds, self.queries, 1000.0)

    @property
    def pairs_per_second(self) -> float | None:
        return _ratio(self.pairs, self.seconds, 1.0)

    @property
    def known(self) -> bool:
        return any(getattr(self, f.name) is not None for f in fields(self) if f.name != "queries")

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Cost:
        """From the note next to a run, or any mapping with these keys.

        What `cost` inside holds goes first, and what its stages hold is added up.
        """
        cost = _mapping(values.get("cost"))
        stages = [_mapping(cost.get(name)) for name in ("pointwise", "lists")]
        found = {
            f.name: _first(
                _number(_mapping(cost.get("energy")).get(f.name)),
                _number(cost.get(f.name)),
                _sum(_number(stage.get(f.name)) for stage in stages),
                _number(values.get(f.name)),
            )
            for f in fields(cls)
        }
        if found["tokens"] is None:
            kinds = ("prompt_tokens", "completion_tokens")
            found["tokens"] = _sum(_number(stage.get(k)) for stage in stages for k in kinds)
        return cls(**found)


_LARGEST = 1e18
"""Beyond it no run took anything, whatever its note says."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reliability:
    """How far a run's probabilities can be believed.

    bins: (mean confidence, observed rate, count), confidence rising.  ece: expected calibration
    error.  name: of the run, and of the map where there is one.
    """

    name: str
    bins: tuple[tuple[float, float, int], ...]
    ece: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """What training logged: (step, loss) and (step, nDCG@10 on dev)."""

    name: str
    loss: tuple[tuple[float, float], ...] = ()
    dev: tuple[tuple[float, float], ...] = ()

    @classmethod
    def of(cls, name: str, training: Mapping[str, Any]) -> Curve:
        """From a checkpoint's dear_training.json."""
        metrics = _mapping(training.get("metrics"))
        return cls(
            name=name,
            loss=_points(metrics.get("loss_curve"), "loss"),
            dev=_points(metrics.get("dev_curve"), "eval_ndcg"),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportPart:
    """One collection.

    queries: id → text.  passages: id → passage; looked up for the queries that are shown only.
    costs, thoughts: by the name of the entry; a thought is one text or several for a query.
    published: rows of this collection and of the compared measure; others are left out.
    inputs: digests of what was measured with, by kind.
    Names that are no entry of the study are refused by `write_report`.
    """

    study: Study
    queries: Mapping[str, str] = field(default_factory=dict)
    passages: Mapping[str, Passage] = field(default_factory=dict)
    costs: Mapping[str, Cost] = field(default_factory=dict)
    thoughts: Mapping[str, Mapping[str, Sequence[str]]] = field(default_factory=dict)
    reliability: Sequence[Reliability] = ()
    published: Sequence[PublishedRow] = ()
    inputs: Mapping[str, str] = field(default_factory=dict)

    @property
    def measure(self) -> str:
        """What is compared."""
        return self.study.compared

    @property
    def rerankers(self) -> list[Entry]:
        return [e for e in self.study.entries if not e.is_first_stage]

    def cost(self, entry: Entry) -> Cost:
        """What is given, else what the note next to the run says."""
        given = self.costs.get(entry.name)
        found = given if given is not None else Cost.of(entry.source.origin or {})
        if found.queries is None:
            found = Cost(
                **{f.name: getattr(found, f.name) for f in fields(found) if f.name != "queries"},
                queries=float(len(entry.source.run)),
            )
        return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """Collections in the order shown.

    command: what to type to make it again.  versions: of the software.  date: left out where
    empty, so that the same input gives the same bytes.
    """

    parts: Sequence[ReportPart]
    title: str = "Reranking report"
    curves: Sequence[Curve] = ()
    command: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    date: str = ""


def _number(value: Any) -> float | None:
    """A number that a report can show; None for anything else, NaN and 10**400 too."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and abs(value) <= _LARGEST else None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _first(*values: float | None) -> float | None:
    return next((value for value in values if value is not None), None)


def _sum(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _ratio(above: float | None, below: float | None, times: float) -> float | None:
    return None if above is None or not below else times * above / below


def _points(entries: Any, key: str) -> tuple[tuple[float, float], ...]:
    rows = map(_mapping, entries if isinstance(entries, list | tuple) else ())
    found = ((_number(e.get("step")), _number(e.get(key))) for e in rows)
    return tuple((step, value) for step, value in found if step is not None and value is not None)
