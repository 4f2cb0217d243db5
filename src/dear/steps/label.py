"""Soft labels: runs and teachers to a folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from dear.artifacts import check_folder
from dear.checkpoints.registry import FIRST_STAGE
from dear.data.collections import open_collection
from dear.data.held_out import tell_of_tests
from dear.data.labels import ENSEMBLE, MANIFEST
from dear.errors import ConfigError
from dear.label import (
    FirstStage,
    Labelled,
    label_with,
    label_with_all,
    require_texts,
    wanted_pairs,
)
from dear.scoring.opening import PairModel, open_model
from dear.steps.inputs import read_runs
from dear.steps.options import LabelOptions
from dear.steps.progress import OnProgress, Watch, unwatched


def label(options: LabelOptions, *, watch: Watch = unwatched) -> list[Labelled]:
    """Score every pair of the runs that has no label yet: what was done, for each teacher.

    A job that was stopped goes on where it was. ConfigError for a folder with labels of the other
    form, one teacher's or several teachers'.
    """
    several = len(options.models) > 1
    _require_form(options.output, several=several)
    collection = open_collection(options.collection)
    runs = read_runs(collection, list(options.runs), options.split)
    judged = None if options.judged is None else collection.judgements(options.judged)
    check_folder(options.output)
    # before a teacher is opened
    require_texts(collection, wanted_pairs(runs, judged))
    asked = dict.fromkeys(q for run in runs for q in run)
    tell_of_tests(collection, asked, "label a run of other queries (`dear retrieve --split`)")

    def open_teacher(name: str) -> PairModel | FirstStage:
        if name == FIRST_STAGE:
            return FirstStage(runs)
        return open_model(name, **options.model_options.to_dict())

    with watch(options.models[0], "pairs") as report:
        teachers = _Teachers(options.models, open_teacher)
        progress = _TeacherProgress(report, teachers)
        if several:
            return label_with_all(
                collection,
                runs,
                teachers,
                options.output,
                weights=options.weights,
                judged=judged,
                progress=progress,
            )
        teacher = teachers[options.models[0]]
        return [
            label_with(collection, runs, teacher, options.output, judged=judged, progress=progress)
        ]


class _Teachers(Mapping[str, PairModel | FirstStage]):
    """Teachers that are opened when their turn comes, so that one is in memory at a time."""

    def __init__(
        self, names: tuple[str, ...], open_teacher: Callable[[str], PairModel | FirstStage]
    ) -> None:
        self.names = list(dict.fromkeys(names))
        self.open_teacher = open_teacher
        self.current = ""

    def __getitem__(self, name: str) -> PairModel | FirstStage:
        self.current = name
        return self.open_teacher(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


class _TeacherProgress:
    """Progress of one teacher after the other; pairs that had a label count for no rate."""

    def __init__(self, report: OnProgress, teachers: _Teachers) -> None:
        self.report, self.teachers = report, teachers
        self.current, self.before = "", 0

    def __call__(self, done: int, total: int) -> None:
        if self.current != self.teachers.current:
            if self.current:
                self.report.restart(self.teachers.current)
            self.current, self.before = self.teachers.current, done
        self.report(done, total, before=self.before)


def _require_form(folder: Path, *, several: bool) -> None:
    if several and (folder / MANIFEST).exists():
        raise ConfigError(f"{folder} holds one teacher's labels; choose another folder")
    if not several and (folder / ENSEMBLE).exists():
        raise ConfigError(f"{folder} holds several teachers' labels; choose another folder")
