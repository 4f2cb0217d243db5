"""What to put into a report, as a TOML file says it."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from dear.artifacts import read_toml
from dear.errors import ConfigError, nearest

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, kw_only=True)
class CollectionPlan:
    """One collection. Runs are files, or the collection's own; all paths start at the file.

    runs:        the name to show → run.
    first_stage: a name in `runs`, or a run; without it the notes beside the runs say, else
                 the collection's own bm25.
    models:      name → checkpoint folder, for training curves and calibration; without it the
                 notes say.
    costs:       name → a JSON file with seconds, pairs, parameters, …; without it the notes say.
    thoughts:    name → a file of lists with thoughts (`read_lists`).
    """

    __pydantic_config__ = _STRICT
    name: str
    runs: dict[str, str]
    split: str = "test"
    min_grade: Annotated[int, Field(ge=1)] | None = None
    first_stage: str | None = None
    models: dict[str, str] = field(default_factory=dict)
    costs: dict[str, str] = field(default_factory=dict)
    thoughts: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ReportPlan:
    """A whole report.

    measures: the defaults where empty; compared: as `study` has it.  published: put beside what
    others published, true for all of it, or the names of systems.  texts: show queries and
    passages; without them ids stand there, as where the texts' licence forbids to pass them on.
    """

    __pydantic_config__ = _STRICT
    collection: tuple[CollectionPlan, ...]
    title: str = ""
    measures: tuple[str, ...] = ()
    compared: str | None = None
    across_candidates: bool = False
    published: bool | tuple[str, ...] = False
    texts: bool = True


def read_plan(path: Path) -> ReportPlan:
    """A plan from a TOML file. DataError: no TOML. ConfigError: unknown keys, a wrong value."""
    values = read_toml(path)
    try:
        # as JSON: there a list may become a tuple, and a string never becomes a number
        plan = TypeAdapter(ReportPlan).validate_json(json.dumps(values, default=str), strict=True)
    except ValidationError as error:
        raise ConfigError(f"{path}: {_explained(error)}") from error
    if not plan.collection:
        raise ConfigError(f"{path}: no collection; a report needs [[collection]]")
    return plan


def _explained(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    *place, key = (str(part) for part in first["loc"])
    where = f"in {'.'.join(place)}: " if place else ""
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        kinds: tuple[Any, ...] = (ReportPlan, CollectionPlan)
        kind = kinds[min(len(place), 1)]
        known = [f.name for f in dataclasses.fields(kind)]
        return f"{where}unknown key {key!r}{nearest(key, known)}"
    return f"{where}{key}: {first['msg'][:1].lower()}{first['msg'][1:]}"
