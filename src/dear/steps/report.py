"""One file about runs, or several in different forms."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from pathlib import Path

from dear.artifacts import check_output
from dear.data.collections import open_collection
from dear.report import Report, write_report, writer_of
from dear.report.gather import CollectionPlan, ReportPlan, gather, read_plan
from dear.scoring.revisions import revision_named
from dear.steps.inputs import named_runs
from dear.steps.options import ReportOptions


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportResult:
    """outputs: the files that were written."""

    report: Report
    outputs: tuple[Path, ...]

    @property
    def notes(self) -> list[str]:
        """What there is to say about the runs."""
        parts = self.report.parts
        return [
            f"{part.study.collection}: {line}" if len(parts) > 1 else line
            for part in parts
            for line in part.study.notes
        ]


def report(options: ReportOptions) -> ReportResult:
    """Measure the runs and write what they are worth: tables, plots, queries to browse."""
    outputs = (options.output, *options.also)
    writers = [writer_of(path) for path in outputs]
    for path in outputs:
        check_output(path)
    plan = _runs_plan(options) if options.study is None else read_plan(options.study)
    measuring = options.measuring
    plan = replace(
        plan,
        title=options.title or plan.title,
        across_candidates=measuring.across_candidates or plan.across_candidates,
        published=measuring.published or plan.published,
        texts=plan.texts and not options.no_texts,
    )
    found = gather(
        plan,
        Path() if options.study is None else options.study.parent,
        command=shlex.join(_command(options)),
        texts=options.queries > 0 and write_report in writers,
        revision=lambda model: revision_named(str(model)),
    )
    for path, write in zip(outputs, writers, strict=True):
        if write is write_report:
            write_report(path, found, max_queries=options.queries)
        else:
            write(path, found)
    return ReportResult(report=found, outputs=outputs)


def _runs_plan(options: ReportOptions) -> ReportPlan:
    name = options.collection or ""
    runs = named_runs(open_collection(name), options.runs, options.split)
    one = CollectionPlan(
        name=name,
        runs={shown: str(path) for shown, path in runs.items()},
        split=options.split,
        min_grade=options.measuring.min_grade,
        first_stage=options.measuring.first_stage,
    )
    return ReportPlan(collection=(one,), measures=options.measuring.measures)


def _command(options: ReportOptions) -> list[str]:
    """The command line that makes the same report."""
    words, measuring = ["dear", "report", str(options.output)], options.measuring
    if options.study is not None:
        words += ["--study", str(options.study)]
    else:
        words.append(options.collection or "")
        words += [word for run in options.runs for word in ("--run", run)]
        words += ["--split", options.split] if options.split != "test" else []
        words += [word for m in measuring.measures for word in ("--measure", m)]
        words += [] if measuring.min_grade is None else ["--min-grade", str(measuring.min_grade)]
        words += [] if measuring.first_stage is None else ["--first-stage", measuring.first_stage]
    words += ["--across-candidates"] if measuring.across_candidates else []
    words += ["--published"] if measuring.published else []
    words += ["--no-texts"] if options.no_texts else []
    words += ["--title", options.title] if options.title else []
    words += ["--queries", str(options.queries)] if options.queries != 50 else []
    return [*words, *(word for path in options.also for word in ("--also", str(path)))]
