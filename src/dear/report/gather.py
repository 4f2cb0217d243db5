"""From a plan (a TOML file, or built in Python) to a report: opens collections, reads runs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from dear.artifacts import read_json, read_toml, versions
from dear.checkpoints.files import TRAINING_FILE
from dear.data.collections import Collection, open_collection
from dear.data.documents import tell_of_documents
from dear.data.formats import read_lists, read_run
from dear.data.inputs import judgements_input, pairs_input, texts_input
from dear.data.judged import check_before_measuring
from dear.data.origins import Origin, first_stage_of, read_origin
from dear.digests import Input, Inputs
from dear.errors import ConfigError, DataError, nearest
from dear.evaluate.calibration import CALIBRATION_FILE, Calibration
from dear.evaluate.metrics import MEASURES, made_note, parse_measures
from dear.evaluate.published import PublishedRow, all_published, published_rows
from dear.evaluate.reliability import assess, judged_scores, reliability
from dear.evaluate.study import RunSource, Study, study
from dear.records import gather as gather_texts
from dear.report.parts import Cost, Curve, Reliability, Report, ReportPart

"""In a checkpoint's folder (dear.train.checkpoints)."""

_Revision = Callable[[Path], str]
"""(folder of a checkpoint) → the revision of the weights in it now."""


_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, kw_only=True)
class CollectionPlan:
    """One collection. Runs are files, or the collection's own; all paths start at the file.

    runs:        the name to show → run.
    first_stage: a name in `runs`, or a run; without it the notes next to the runs say, else
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

    measures: the defaults where empty; compared: as `study` has it.  published: put next to what
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


def gather(
    plan: ReportPlan,
    folder: Path,
    *,
    command: str = "",
    texts: bool = True,
    revision: _Revision | None = None,
) -> Report:
    """Everything that the plan names, measured.

    folder: where its paths start.  texts: read queries and passages, too.
    revision: compares the weights of checkpoints at hand with those that ranked.
    A run that was made from other texts, another first stage or other weights than are there now is
    named in the notes. Errors are those of the readers and of `study`; ConfigError for a name that
    is no run of its collection.
    """
    texts = texts and plan.texts
    measures = [m.name for m in parse_measures(plan.measures or MEASURES)]
    compared = plan.compared or (measures[0] if plan.measures else None)
    _check_published(plan)
    parts: list[ReportPart] = []
    curves: dict[Path, Curve] = {}
    for one in plan.collection:
        place = folder / one.name
        opened = open_collection(place if place.is_dir() else one.name)
        found = _Gathered.of(one, opened, folder)
        sources, notes = found.sources()
        judgements = opened.judgements(one.split)
        check_before_measuring(opened, one.split, [source.run for source in sources])
        if (said := made_note(judgements)) is not None:
            notes.append(said)
        if opened.documents is not None:
            tell_of_documents(opened.name)
        made = study(
            opened.name,
            one.split,
            judgements,
            sources,
            measures=measures,
            compared=compared,
            min_grade=opened.min_grade if one.min_grade is None else one.min_grade,
            across_candidates=plan.across_candidates,
        )
        models = found.models(made)
        revisions = {} if revision is None else {n: revision(m) for n, m in models.items()}
        notes += found.stale(made, revisions)
        maps = _maps(made, models, revisions, notes)
        made = dataclasses.replace(made, notes=(*notes, *made.notes))
        for name, model in models.items():
            if (model / TRAINING_FILE).is_file() and model.resolve() not in curves:
                curves[model.resolve()] = Curve.of(name, read_json(model / TRAINING_FILE))
        parts.append(
            ReportPart(
                study=made,
                queries={q.id: q.text for q in opened.queries().values()} if texts else {},
                passages=opened.corpus if texts else {},
                costs={n: Cost.of(read_json(folder / p)) for n, p in one.costs.items()},
                thoughts={n: _thoughts(folder / p) for n, p in one.thoughts.items()},
                reliability=[_reliability(made, name, one) for name, one in maps.items()],
                inputs={
                    "judgements": judgements_input(opened.judgements(one.split), one.split).digest,
                    **({"texts": texts_input(opened).digest} if texts else {}),
                },
                published=_published(plan, made),
            )
        )
    names = [p.study.collection for p in parts]
    title = plan.title or f"Reranking on {', '.join(names)}"
    return Report(
        parts=parts,
        title=title,
        curves=list(curves.values()),
        command=command,
        versions=versions(),
    )


@dataclass(frozen=True)
class _Gathered:
    """The files of a collection's runs, by the name to show."""

    plan: CollectionPlan
    collection: Collection
    folder: Path
    files: Mapping[str, Path]
    origins: dict[str, Origin | None] = field(default_factory=dict)

    @classmethod
    def of(cls, plan: CollectionPlan, collection: Collection, folder: Path) -> _Gathered:
        if not plan.runs:
            raise ConfigError(f"{plan.name}: no run to report on")
        given = {n: _find(collection, plan.split, folder, run) for n, run in plan.runs.items()}
        first = plan.first_stage
        if first is not None and first not in given:
            path = _find(collection, plan.split, folder, first)
            given = {_free(first if first != str(path) else path.stem, given): path, **given}
        return cls(plan, collection, folder, given)

    def sources(self) -> tuple[list[RunSource], list[str]]:
        """First stages before what reranked them, and what there is to say about finding them."""
        notes: list[str] = []
        files = dict(self.files)
        names = {path.resolve(): name for name, path in files.items()}
        origins = self.origins
        origins |= {name: read_origin(path) for name, path in files.items()}
        reranked: dict[str, str | None] = {}
        for name in self.files:
            first = self._first_stage(name, origins[name], notes)
            if first is not None and first.resolve() not in names:
                added = _free(_own_name(self.collection, self.plan.split, first), files)
                files[added] = first
                names[first.resolve()] = added
                origins[added] = read_origin(first)
                reranked[added] = None
            before = None if first is None else names[first.resolve()]
            reranked[name] = None if before == name else before
        if len(files) > 1 and not any(reranked.values()):
            notes.append("no first stage to compare with is known")
        ordered = sorted(files, key=lambda n: reranked[n] is not None)
        return [self._source(n, files[n], reranked[n], origins[n]) for n in ordered], notes

    def _first_stage(self, name: str, origin: Origin | None, notes: list[str]) -> Path | None:
        """What this run reranked, itself where it is a first stage's; None: not known."""
        if self.plan.first_stage is not None:
            given = self.files.get(self.plan.first_stage)
            if given is not None:
                return given
            return _find(self.collection, self.plan.split, self.folder, self.plan.first_stage)
        own = self.collection.runs(self.plan.split)
        first, said = first_stage_of(self.files[name], origin, own)
        notes += [] if said is None else [said]
        return first

    def _source(
        self, name: str, path: Path, first_stage: str | None, origin: Origin | None
    ) -> RunSource:
        return RunSource(
            name=name,
            run=read_run(path),
            first_stage=first_stage,
            path=path,
            origin=None if origin is None else origin.values,
        )

    def stale(self, made: Study, revisions: Mapping[str, str]) -> list[str]:
        """What there is to say about runs that were made from something else than is there now."""
        said: list[str] = []
        for entry in made.entries:
            origin = self.origins.get(entry.name)
            if origin is None or origin.model is None:
                continue
            now = Inputs(complete=False)
            if entry.name in revisions:
                now |= {"model": Input(revisions[entry.name], origin.model)}
            all_texts = origin.values.get("all_texts")
            # a note that knows no texts is no reason to read any
            if "texts" in origin.inputs and all_texts != texts_input(self.collection).digest:
                run = entry.source.run
                queries, corpus = self.collection.queries(), self.collection.corpus
                pairs = [gather_texts(ranking, queries, corpus) for ranking in run.values()]
                now |= {"texts": pairs_input(pairs, self.collection.name)}
            found = origin.inputs.changes(now)
            if found:
                said.append(f"{entry.name} was ranked from other inputs ({found}); rank it again")
            elif found.unverified:
                kinds = " and ".join(found.unverified)
                said.append(f"{entry.name} is unverified: its note does not say of which {kinds}")
        return said

    def models(self, made: Study) -> dict[str, Path]:
        """Entry → its checkpoint, where that is a folder at hand."""
        found = {name: self.folder / path for name, path in self.plan.models.items()}
        for name, path in found.items():
            made.entry(name)
            if not path.is_dir():
                raise DataError.at(path, None, "no such folder")
        for entry in made.entries:
            model = (entry.source.origin or {}).get("model")
            if entry.name not in found and isinstance(model, str) and Path(model).is_dir():
                found[entry.name] = Path(model)
        return found


def _find(collection: Collection, split: str, folder: Path, run: str) -> Path:
    path = folder / run
    if path.is_file():
        return path
    own = collection.runs(split)
    if run in own:
        return own[run]
    there = f"its runs of split {split!r}: {', '.join(own)}" if own else f"it has none ({split!r})"
    raise DataError(f"no run {run!r}: no file {path}, and no run of {collection.name} ({there})")


def _own_name(collection: Collection, split: str, path: Path) -> str:
    own = {p.resolve(): name for name, p in collection.runs(split).items()}
    return own.get(path.resolve()) or path.name.split(".")[0] or path.name


def _free(name: str, taken: Mapping[str, Path]) -> str:
    """The name, with a number where there is one like it."""
    number, found = 2, name
    while found in taken:
        found, number = f"{name} {number}", number + 1
    return found


def _published(plan: ReportPlan, made: Study) -> list[PublishedRow]:
    if plan.published is False:
        return []
    rows = published_rows(made.collection, measures=[made.compared])
    return [r for r in rows if plan.published is True or r.system in plan.published]


def _check_published(plan: ReportPlan) -> None:
    """ConfigError for a system of which nothing was published."""
    known = {row.system for row in all_published()}
    for name in () if isinstance(plan.published, bool) else plan.published:
        if name not in known:
            raise ConfigError(f"nothing published is known of {name!r}{nearest(name, known)}")


def _thoughts(path: Path) -> dict[str, list[str]]:
    """Query id → thoughts; below each, which passage its [1], [2], … are."""
    found: dict[str, list[str]] = {}
    for example in read_lists(path):
        if example.thought:
            key = ", ".join(f"[{i}] {p.id}" for i, p in enumerate(example.passages, 1))
            found.setdefault(example.query.id, []).append(f"{example.thought}\n{key}")
    return found


def _maps(
    made: Study, models: Mapping[str, Path], revisions: Mapping[str, str], notes: list[str]
) -> dict[str, Calibration]:
    """Entry → the map of its model; those of other weights are left out, and are named."""
    found: dict[str, Calibration] = {}
    for name, model in models.items():
        if not (model / CALIBRATION_FILE).is_file():
            continue
        calibration = Calibration.load(model / CALIBRATION_FILE)
        origin = made.entry(name).source.origin or {}
        ranked_by = origin.get("revision", revisions.get(name, calibration.revision))
        if calibration.revision == ranked_by:
            found[name] = calibration
            if calibration.fitted_on.get("collection") != made.collection:
                notes.append(
                    f"{name}: its probabilities are by a map fitted on {calibration.described}; "
                    f"for {made.collection} they are not calibrated"
                )
        else:
            notes.append(
                f"{name}: {model / CALIBRATION_FILE} was fitted on other weights than those that "
                "ranked, and is left out; `dear calibrate` fits it again"
            )
    return found


def _reliability(made: Study, name: str, calibration: Calibration) -> Reliability:
    """The calibrated probabilities of the run's judged pairs against the judgements."""
    run = made.entry(name).source.run
    fitted = calibration.fitted_on
    pairs = judged_scores(
        run,
        made.judgements,
        min_grade=fitted.get("min_grade", made.min_grade),
        unjudged=fitted.get("unjudged", "leave"),
    )
    pairs.require_both()
    probabilities = calibration.probability(pairs.scores)
    bins = reliability(probabilities, pairs.relevant)
    return Reliability(
        name=f"{name}, {calibration.kind}",
        bins=tuple((b.probability, b.relevant, b.count) for b in bins),
        ece=assess(probabilities, pairs.relevant).ece,
    )
