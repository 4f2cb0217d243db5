"""`dear report`: one file about runs, to be looked at, sent, or put into a paper."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dear.artifacts import check_output
from dear.cli.evaluate import run_names
from dear.cli.output import count, note, summary
from dear.cli.runs import (
    AcrossOption,
    FirstStageOption,
    MeasureOption,
    MinGradeOption,
    PublishedOption,
)
from dear.data.collections import open_collection
from dear.errors import ConfigError
from dear.steps.inputs import find_run

if TYPE_CHECKING:
    from dear.report.gather import ReportPlan


def report(
    output: Annotated[
        Path, typer.Argument(metavar="OUTPUT", help="Ends in .html, .md or .tex (booktabs).")
    ],
    collection: Annotated[
        str | None,
        typer.Argument(metavar="[COLLECTION]", help="A name of `dear collections`, or a folder."),
    ] = None,
    run: Annotated[
        list[str] | None,
        typer.Option(
            "--run",
            metavar="[NAME=]RUN",
            help="A run's file, or one of the collection's own; may be repeated.",
        ),
    ] = None,
    study: Annotated[
        Path | None,
        typer.Option(metavar="TOML", help="Collections and runs in a file, instead of the above."),
    ] = None,
    split: Annotated[str, typer.Option(metavar="SPLIT", help="Whose judgements.")] = "test",
    measure: MeasureOption = None,
    min_grade: MinGradeOption = None,
    first_stage: FirstStageOption = None,
    across_candidates: AcrossOption = False,
    published: PublishedOption = False,
    queries: Annotated[
        int, typer.Option(min=0, metavar="N", help="Queries of each collection to browse.")
    ] = 50,
    no_texts: Annotated[
        bool,
        typer.Option("--no-texts", help="Ids instead of queries and passages, to pass it on."),
    ] = False,
    title: Annotated[str | None, typer.Option(metavar="TEXT")] = None,
    also: Annotated[
        list[Path] | None,
        typer.Option("--also", metavar="OUTPUT", help="The same in another form; repeatable."),
    ] = None,
) -> None:
    """Write one file that shows what runs are worth: tables, plots, queries to browse."""
    from dataclasses import replace

    from dear.report import write_report, writer_of
    from dear.report.gather import gather, read_plan

    outputs = [output, *(also or [])]
    writers = [writer_of(path) for path in outputs]
    for path in outputs:
        check_output(path)
    if study is not None:
        given = {
            "COLLECTION": collection,
            "--run": run,
            "--measure": measure,
            "--min-grade": min_grade,
            "--first-stage": first_stage,
        }
        both = next((name for name, value in given.items() if value), None)
        if both is not None:
            raise ConfigError(f"{both} and --study: the file says that")
        plan, folder = read_plan(study), study.parent
        command = ["--study", str(study)]
    else:
        if collection is None:
            raise ConfigError("name a collection and its runs, or --study")
        plan, folder = _plan(collection, run or [], split, measure, min_grade, first_stage), Path()
        command = _words(collection, run or [], split, measure, min_grade, first_stage)
    plan = replace(
        plan,
        title=title or plan.title,
        across_candidates=across_candidates or plan.across_candidates,
        published=published or plan.published,
        texts=plan.texts and not no_texts,
    )
    command += ["--across-candidates"] if across_candidates else []
    command += ["--published"] if published else []
    command += ["--no-texts"] if no_texts else []
    command += ["--title", title] if title else []
    command += ["--queries", str(queries)] if queries != 50 else []
    words = [
        "dear",
        "report",
        str(output),
        *command,
        *(w for a in also or [] for w in ("--also", str(a))),
    ]
    texts = queries > 0 and write_report in writers
    found = gather(plan, folder, command=shlex.join(words), texts=texts, revision=_revision)
    for path, write in zip(outputs, writers, strict=True):
        if write is write_report:
            write_report(path, found, max_queries=queries)
        else:
            write(path, found)
    for part in found.parts:
        for line in part.study.notes:
            note(f"{part.study.collection}: {line}" if len(found.parts) > 1 else line)
    runs = sum(len(part.study.entries) for part in found.parts)
    for path in outputs:
        summary(f"{path}: {count(runs, 'run')} on {count(len(found.parts), 'collection')}", path)


def _revision(model: Path) -> str:
    from dear.scoring.revisions import revision_named

    return revision_named(str(model))


def _plan(
    collection: str,
    runs: list[str],
    split: str,
    measures: list[str] | None,
    min_grade: int | None,
    first_stage: str | None,
) -> ReportPlan:
    from dear.report.gather import CollectionPlan, ReportPlan

    if not runs:
        raise ConfigError("no run to report on; name one with --run")
    one = CollectionPlan(
        name=collection,
        runs=_named(collection, runs, split),
        split=split,
        min_grade=min_grade,
        first_stage=first_stage,
    )
    return ReportPlan(collection=(one,), measures=tuple(measures or ()))


def _named(collection: str, runs: list[str], split: str) -> dict[str, str]:
    """Name to show → run; the file's own name where none is given."""

    opened = open_collection(collection)
    pairs = [_split(run) for run in runs]
    paths = [find_run(opened, run, split) for _, run in pairs]
    own = {path.resolve(): name for name, path in opened.runs(split).items()}
    names = [given or found for (given, _), found in zip(pairs, run_names(paths, own), strict=True)]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"two runs are called {twice!r}; --run NAME={runs[0]} names one")
    return dict(zip(names, (run for _, run in pairs), strict=True))


def _split(run: str) -> tuple[str, str]:
    """Name ("" where there is none) and run."""
    if "=" not in run or Path(run).exists():
        return "", run
    name, _, file = run.partition("=")
    if not name.strip() or not file:
        raise ConfigError(f"--run {run!r}: expected NAME=RUN")
    return name.strip(), file


def _words(
    collection: str,
    runs: list[str],
    split: str,
    measures: list[str] | None,
    min_grade: int | None,
    first_stage: str | None,
) -> list[str]:
    """The command line that says the same."""
    words = [collection]
    for run in runs:
        words += ["--run", run]
    words += ["--split", split] if split != "test" else []
    for measure in measures or []:
        words += ["--measure", measure]
    words += [] if min_grade is None else ["--min-grade", str(min_grade)]
    words += [] if first_stage is None else ["--first-stage", first_stage]
    return words
