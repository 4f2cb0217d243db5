"""`dear evaluate`: runs beside their first stage, and whether they differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dear.artifacts import check_output, versions, write_json
from dear.cli.evaluate_tables import show
from dear.cli.output import note, print_json
from dear.cli.runs import (
    AcrossOption,
    FirstStageOption,
    MeasureOption,
    MinGradeOption,
    PublishedOption,
)
from dear.data.collections import open_collection
from dear.data.formats import read_run
from dear.data.origins import first_stage_of, read_origin
from dear.errors import ConfigError
from dear.evaluate.published import published_rows
from dear.steps.inputs import find_run
from dear.steps.measured import measured_documents

if TYPE_CHECKING:
    from dear.data.collections import Collection
    from dear.data.origins import Origin
    from dear.evaluate.metrics import Evaluation
    from dear.evaluate.published import PublishedRow
    from dear.evaluate.study import MeasureRun, RunSource, Study
    from dear.records import Judgements, Run

ANSWER_MEASURES = ("answer@1", "answer@5", "answer@20")
ENDINGS = (".gz", ".trec", ".run", ".txt")


def evaluate(
    collection: Annotated[
        str, typer.Argument(metavar="COLLECTION", help="A name of `dear collections`, or a folder.")
    ],
    run: Annotated[
        list[str],
        typer.Option(
            "--run",
            metavar="RUN",
            help="A run's file, or one of the collection's own; may be repeated.",
        ),
    ],
    split: Annotated[str, typer.Option(metavar="SPLIT", help="Whose judgements.")] = "test",
    measure: MeasureOption = None,
    min_grade: MinGradeOption = None,
    first_stage: FirstStageOption = None,
    aggregate: Annotated[
        str | None,
        typer.Option(
            metavar="max", help="Runs are of passages: documents count by their best passage."
        ),
    ] = None,
    hurt: Annotated[
        int,
        typer.Option(min=0, metavar="N", help="Show the N queries hurt most by each run."),
    ] = 5,
    all_pairs: Annotated[
        bool,
        typer.Option(
            "--all-pairs", help="Of more than four runs, show every pair, not only first stages'."
        ),
    ] = False,
    per_query: Annotated[
        bool, typer.Option("--per-query", help="Every query's values of the compared measure.")
    ] = False,
    published: PublishedOption = False,
    across_candidates: AcrossOption = False,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write everything; - is standard output."),
    ] = None,
) -> None:
    """Measure runs against judgements, and compare them."""
    from dear.evaluate.study import study

    to_stdout = json_file is not None and str(json_file) == "-"
    if json_file is not None and not to_stdout:
        check_output(json_file)
    opened = open_collection(collection)
    asked = _asked(opened, split, measure or ())
    paths = [find_run(opened, one, split) for one in run]
    sources, notes = _sources(opened, split, paths, first_stage)
    sources = measured_documents(opened, sources, aggregate, judged=bool(asked.judgements))
    found = study(
        opened.name,
        split,
        asked.judgements,
        sources,
        measures=asked.measures,
        compared=asked.compared,
        measure_run=asked.measure_run,
        min_grade=opened.min_grade if min_grade is None else min_grade,
        across_candidates=across_candidates,
    )
    notes += found.notes
    if json_file is not None:
        report = found.to_dict(per_query=per_query) | {"notes": notes, "versions": versions()}
        if published:
            report["published"] = [asdict(row) for row in _published(found)]
        if to_stdout:
            print_json(report)
        else:
            write_json(json_file, report)
    if not to_stdout:
        others = _published(found) if published else ()
        show(found, opened, others, hurt=hurt, all_pairs=all_pairs, per_query=per_query)
    for line in notes:
        note(line)


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
    from dear.evaluate.answers import answer_cutoff, evaluate_answers
    from dear.evaluate.metrics import MEASURES, parse_measures

    main = collection.main_measure
    matched = [m for m in measures if answer_cutoff(m) is not None]
    if not measures and answer_cutoff(main) is not None:
        matched = list(dict.fromkeys((main, *ANSWER_MEASURES)))
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


def _published(found: Study) -> Sequence[PublishedRow]:

    return published_rows(found.collection, measures=found.measures)


def _sources(
    collection: Collection, split: str, runs: Sequence[Path], given: str | None
) -> tuple[list[RunSource], list[str]]:
    """First stages first, the same file once; and what there is to say about finding them."""
    from dear.evaluate.study import RunSource

    stages = {path.resolve(): path for path in runs}
    origins = {real: read_origin(path) for real, path in stages.items()}
    first, notes = _first_stages(collection, runs, origins, given, split)
    files = {path.resolve(): path for path in first.values()} | stages
    own = {p.resolve(): name for name, p in collection.runs(split).items()}
    names = dict(zip(files, run_names(list(files.values()), own), strict=True))
    sources = []
    for real, path in files.items():
        origin = origins[real] if real in origins else read_origin(path)
        reranked = first.get(real)
        is_first = reranked is None or reranked.resolve() == real
        sources.append(
            RunSource(
                name=names[real],
                run=read_run(path),
                first_stage=None if is_first else names[reranked.resolve()],  # type: ignore[union-attr]
                path=path,
                origin=None if origin is None else origin.values,
            )
        )
    return sources, notes


def _first_stages(
    collection: Collection,
    runs: Sequence[Path],
    origins: Mapping[Path, Origin | None],
    given: str | None,
    split: str,
) -> tuple[dict[Path, Path], list[str]]:
    """Resolved path of a run → the run that it reranked, itself where it is a first stage's."""
    if given is not None:
        one = find_run(collection, given, split)
        return {path.resolve(): one for path in (one, *runs)}, []
    found: dict[Path, Path] = {}
    notes: list[str] = []
    own = collection.runs(split)
    for run in runs:
        first, said = first_stage_of(run, origins[run.resolve()], own)
        notes += [] if said is None else [said]
        if first is not None:
            found[run.resolve()] = first
    if not found:
        notes.append("no first stage to compare with is known; name it with --first-stage")
    return found | {path.resolve(): path for path in found.values()}, notes


def run_names(paths: Sequence[Path], own: Mapping[Path, str]) -> list[str]:
    """A short name for each file, all different: the file's, with folders where it must be.

    own: resolved path → name, for the collection's own runs.
    """
    names = [own.get(path.resolve()) or _stem(path, 1) for path in paths]
    for depth in range(2, max(len(path.resolve().parts) for path in paths)):
        if len(set(names)) == len(names):
            return names
        names = [
            _stem(path, depth) if names.count(name) > 1 else name
            for path, name in zip(paths, names, strict=True)
        ]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]


def _stem(path: Path, depth: int) -> str:
    name = path.name
    for ending in ENDINGS:
        name = name.removesuffix(ending)
    parents = path.resolve().parent.parts[1:]
    return "/".join((*parents[len(parents) - depth + 1 :], name or path.name))
