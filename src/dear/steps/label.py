"""Soft labels: runs and teachers to a folder; what that would take."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from dear.artifacts import check_folder
from dear.bulk.crew import Crew
from dear.bulk.models import FarModel, open_scorer
from dear.checkpoints.contract_resolution import resolve
from dear.checkpoints.registry import FIRST_STAGE, locate
from dear.checkpoints.threads import tokenize
from dear.checkpoints.tokenizer import load_tokenizer
from dear.data.collections import Collection, open_collection
from dear.data.held_out import tell_of_tests
from dear.data.label_mirror import LabelMirror
from dear.data.labels import ENSEMBLE, MANIFEST, PairId, open_labels
from dear.data.shards import Share
from dear.errors import ConfigError
from dear.label import (
    FirstStage,
    Labelled,
    Wanted,
    label_with,
    label_with_all,
    require_texts,
    texts_of,
)
from dear.records import Judgements, Run, every_nth
from dear.scoring.encoding import Pair, PairEncoder
from dear.scoring.opening import PairModel, kind_of, open_model
from dear.steps.inputs import read_runs, share_of
from dear.steps.options import LabelOptions, ModelOptions
from dear.steps.progress import OnProgress, Watch, unwatched
from dear.steps.runtimes import prepared

PROBE_PAIRS, PROBE_S = 512, 10.0
"""Pairs that are looked at to tell what a job takes, and about how long they are scored."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Job:
    """What is to be labelled, with its texts."""

    collection: Collection
    runs: list[Run]
    judged: Judgements | None
    share: Share | None
    wanted: Wanted

    @classmethod
    def read(cls, options: LabelOptions) -> _Job:
        """DataError: ids without texts, before a teacher is opened."""
        collection = open_collection(options.collection)
        judged = None if options.judged is None else collection.judgements(options.judged)
        shard = options.place.shard(options.shard)
        share = share_of(collection, options.runs, options.split, shard, judged)
        runs = read_runs(collection, options.runs, options.split, share)
        wanted = Wanted(runs, judged, share)
        require_texts(collection, wanted)
        return cls(collection=collection, runs=runs, judged=judged, share=share, wanted=wanted)


def label(options: LabelOptions, *, watch: Watch = unwatched) -> list[Labelled]:
    """Score every pair of the runs that has no label yet: what was done, for each teacher.

    A job that was stopped goes on where it was. ConfigError for a folder with labels of the other
    form, one teacher's or several teachers'.
    """
    several = len(options.models) > 1
    mirror = None if options.mirror is None else LabelMirror(options.mirror)
    _require_form(options.output, mirror, several=several)
    check_folder(options.output)
    job = _Job.read(options)
    asked = dict.fromkeys(q for run in job.runs for q in run)
    tell_of_tests(job.collection, asked, "label a run of other queries (`dear retrieve --split`)")

    def open_teacher(name: str) -> PairModel | FirstStage:
        if name == FIRST_STAGE:
            digest = None if job.share is None else job.share.inputs["run"].digest
            return FirstStage(job.runs, digest=digest)
        found = prepared(name, runtime=options.runtime, options=options.model_options)
        how = found.options.to_dict()
        if not options.place.far:
            return open_model(found.model, **how)
        opener = partial(open_scorer, found.model, how)
        crew = far.enter_context(Crew(opener, **options.place.to_dict()))
        return FarModel(crew.about, crew)

    with ExitStack() as far, watch(options.models[0], "pairs") as report:
        teachers = _Teachers(options.models, open_teacher)
        progress = _TeacherProgress(report, teachers)
        if several:
            return label_with_all(
                job.collection,
                job.runs,
                teachers,
                options.output,
                weights=options.weights,
                judged=job.judged,
                mirror=mirror,
                progress=progress,
            )
        return [
            label_with(
                job.collection,
                job.runs,
                teachers[options.models[0]],
                options.output,
                judged=job.judged,
                share=job.share,
                mirror=mirror,
                progress=progress,
            )
        ]


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelEstimate:
    """What a labelling job would take in one process.

    pairs: to be scored.  kept: those that have a label.  tokens_per_pair: the mean of a sample.
    measured: whether the rate is this machine's, of that sample.  price: of an hour.
    """

    share: Share | None
    pairs: int
    kept: int
    tokens_per_pair: float
    pairs_per_second: float
    measured: bool
    price: float | None

    @property
    def seconds(self) -> float:
        return self.pairs / self.pairs_per_second

    @property
    def tokens(self) -> int:
        return round(self.pairs * self.tokens_per_pair)

    @property
    def cost(self) -> float | None:
        return None if self.price is None else self.price * self.seconds / 3600


def estimate(options: LabelOptions) -> LabelEstimate:
    """What `label` would have to do, without doing it. With `pairs_per_second` no weights are read.

    ConfigError: a teacher that costs nothing, nothing left to label.
    """
    (name,) = options.models
    if name == FIRST_STAGE:
        raise ConfigError(f"--dry-run: {FIRST_STAGE} scores nothing")
    job = _Job.read(options)
    todo = _unlabelled(options.output, job.wanted)
    if not todo:
        raise ConfigError("--dry-run: nothing is left to label")
    sample = texts_of(job.collection, every_nth(todo, PROBE_PAIRS))
    rate = options.pairs_per_second
    return LabelEstimate(
        share=job.share,
        pairs=len(todo),
        kept=len(job.wanted) - len(todo),
        tokens_per_pair=float(np.mean(_tokens(name, options.model_options, sample))),
        pairs_per_second=rate or _rate(open_model(name, **options.model_options.to_dict()), sample),
        measured=options.pairs_per_second is None,
        price=options.price_per_hour,
    )


def _unlabelled(folder: Path, wanted: Wanted) -> list[PairId]:
    if not (folder / MANIFEST).is_file():
        return list(wanted)
    labels = open_labels(folder)
    return [(q, p) for q, p in wanted if np.isnan(labels.of(q, [p])[0])]


def _tokens(name: str, options: ModelOptions, pairs: Sequence[Pair]) -> list[int]:
    """Of each pair, as the model reads it; of models without a contract, before they cut it."""
    kind, place = kind_of(name)
    source = locate(place, revision=options.revision)
    tokenizer = load_tokenizer(source)
    if kind is None:
        encoder = PairEncoder(tokenizer, resolve(source, options.contract).contract)
        return [len(one) for one in encoder.encode(pairs)]
    read = tokenize(tokenizer, [f"{query} {passage}" for query, passage in pairs], verbose=False)
    return [len(ids) for ids in read["input_ids"]]


def _rate(teacher: PairModel, sample: Sequence[Pair]) -> float:
    """Pairs a second, of more and more of the sample until it took long."""
    teacher.score(sample[:8])  # the first call is the slowest
    scored, seconds, count = 0, 0.0, 16
    while seconds < PROBE_S and scored < len(sample):
        part = sample[scored : scored + count]
        started = time.perf_counter()
        teacher.score(part)
        seconds += time.perf_counter() - started
        scored, count = scored + len(part), 2 * count
    return scored / seconds


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


def _require_form(folder: Path, mirror: LabelMirror | None, *, several: bool) -> None:
    other, whose = (MANIFEST, "one teacher's") if several else (ENSEMBLE, "several teachers'")
    if (folder / other).exists():
        raise ConfigError(f"{folder} holds {whose} labels; choose another folder")
    if mirror is not None and mirror.holds(other):
        raise ConfigError(f"{mirror.url} holds {whose} labels; choose another --mirror")
