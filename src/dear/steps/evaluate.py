"""Runs of a collection, with their first stages, measured and compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dear.artifacts import versions
from dear.data.collections import Collection, open_collection
from dear.data.formats import read_run
from dear.data.judged import check_before_measuring
from dear.data.origins import Origin, first_stage_of, read_origin
from dear.errors import ConfigError
from dear.evaluate.answers import answer_cutoff, evaluate_answers
from dear.evaluate.metrics import MEASURES, Evaluation, parse_measures
from dear.evaluate.published import PublishedRow, published_rows
from dear.evaluate.study import MeasureRun, RunSource, Study, study
from dear.records import Judgements, Run
from dear.steps.inputs import find_run, named_runs, own_run_names, run_names
from dear.steps.measured import measured_documents
from dear.steps.options import EvaluateOptions

_ANSWER_MEASURES = ("answer@1", "answer@5", "answer@20")


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateResult:
    """published: rows of others, where they are asked for.  notes: what there is to say besides."""

    collection: Collection
    study: Study
    published: tuple[PublishedRow, ...] | None
    notes: tuple[str, ...]

    def to_dict(self, *, per_query: bool = False) -> dict[str, Any]:
        """For a JSON file."""
        found = self.study.to_dict(per_query=per_query)
        found |= {"notes": list(self.notes), "versions": versions()}
        if self.published is not None:
            found["published"] = [asdict(row) for row in self.published]
        return found


def evaluate(options: EvaluateOptions) -> EvaluateResult:
    """Measure runs against judgements or answers, and compare them. It writes nothing."""
    measuring, split = options.measuring, options.split
    collection = open_collection(options.collection)
    asked = _asked(collection, split, measuring.measures)
    runs = named_runs(collection, options.runs, split)
    sources, notes = _sources(collection, split, runs, measuring.first_stage)
    sources = measured_documents(
        collection, sources, options.aggregate, judged=bool(asked.judgements)
    )
    if asked.judgements:
        check_before_measuring(collection, split, [source.run for source in sources])
    found = study(
        collection.name,
        split,
        asked.judgements,
        sources,
        measures=asked.measures,
        compared=asked.compared,
        measure_run=asked.measure_run,
        min_grade=collection.min_grade if measuring.min_grade is None else measuring.min_grade,
        across_candidates=measuring.across_candidates,
    )
    published = None
    if measuring.published:
        published = tuple(published_rows(found.collection, measures=found.measures))
    return EvaluateResult(
        collection=collection, study=found, published=published, notes=(*notes, *found.notes)
    )


@dataclass(frozen=True, slots=True)
class _Asked:
    """What is measured, and by what; compared: None leaves it to `study`."""

    judgements: Judgements
    measures: Sequence[str]
    compared: str | None
    measure_run: MeasureRun | None = None


def _asked(collection: Collection, split: str, measures: Sequence[str]) -> _Asked:
    """Judgements, or answers where `answer@k` is asked for or is what the collection is reported
    by. ConfigError for both at once."""
    main = collection.main_measure
    matched = [m for m in measures if answer_cutoff(m) is not None]
    if not measures and answer_cutoff(main) is not None:
        matched = list(dict.fromkeys((main, *_ANSWER_MEASURES)))
    if not matched:
        names = [m.name for m in parse_measures(measures or MEASURES)]
        compared = names[0] if measures else main if main in names else None
        return _Asked(collection.judgements(split), names, compared)
    if len(matched) < len(measures):
        raise ConfigError(
            "answer@k is matched with answers, the others are judged: ask for one kind"
        )
    names = list(dict.fromkeys(f"answer@{answer_cutoff(m)}" for m in matched))
    split_of, answers, corpus = collection.queries(split), collection.answers, collection.corpus
    wanted = {q: answers[q] for q in answers if q in split_of}

    def measure_run(run: Run) -> Evaluation:
        return evaluate_answers(run, wanted, corpus, names)

    return _Asked({}, names, names[0], measure_run)


def _sources(
    collection: Collection, split: str, runs: Mapping[str, Path], given: str | None
) -> tuple[list[RunSource], list[str]]:
    """First stages first; and what there is to say about finding them."""
    stages = {path.resolve(): path for path in runs.values()}
    origins = {real: read_origin(path) for real, path in stages.items()}
    first, notes = _first_stages(collection, runs, origins, given, split)
    files = {path.resolve(): path for path in first.values()} | stages
    named = {path.resolve(): name for name, path in runs.items()}
    own = own_run_names(collection, split) | named
    names = dict(zip(files, run_names(list(files.values()), own), strict=True))
    sources = []
    for real, path in files.items():
        origin = origins[real] if real in origins else read_origin(path)
        reranked = first.get(real)
        reranked_real = None if reranked is None else reranked.resolve()
        sources.append(
            RunSource(
                name=names[real],
                run=read_run(path),
                first_stage=None if reranked_real in (None, real) else names[reranked_real],
                path=path,
                origin=None if origin is None else origin.values,
            )
        )
    return sources, notes


def _first_stages(
    collection: Collection,
    runs: Mapping[str, Path],
    origins: Mapping[Path, Origin | None],
    given: str | None,
    split: str,
) -> tuple[dict[Path, Path], list[str]]:
    """Resolved path of a run → the run that it reranked, itself where it is a first stage's."""
    if given is not None:
        one = runs.get(given) or find_run(collection, given, split)
        return {path.resolve(): one for path in (one, *runs.values())}, []
    found: dict[Path, Path] = {}
    notes: list[str] = []
    own = collection.runs(split)
    for run in runs.values():
        first, said = first_stage_of(run, origins[run.resolve()], own)
        notes += [] if said is None else [said]
        if first is not None:
            found[run.resolve()] = first
    if not found:
        notes.append("no first stage to compare with is known; name it with --first-stage")
    return found | {path.resolve(): path for path in found.values()}, notes
