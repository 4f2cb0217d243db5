"""What a distillation found out: a row for each system, and whether the labels were worth it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dear.data.collections import Collection
from dear.evaluate.compare import compare_all
from dear.evaluate.metrics import evaluate
from dear.evaluate.paired import bootstrap_interval
from dear.records import Judgements, Ranking, Run
from dear.report.charts import Bar, bars
from dear.steps.recommendation import Recommendation
from dear.steps.stages import Stages

MEASURE = "nDCG@10"
FIRST, TEACHER, STUDENT, CONTROL = "first stage", "teacher", "student", "student, no labels"
NO_LABELS = "student-no-labels"
"""The control's checkpoint, run and stages. It is not called `control`, as older ones were that
started from other weights than the student: those must not be taken for this one."""
FUSED = f" + {FIRST}"
"""Ends a system's name: with the first stage's score."""
ZERO_SHOT = "zero-shot"
STUDENT_FUSED, ZERO_SHOT_FUSED = STUDENT + FUSED, ZERO_SHOT + FUSED
RESULTS = "results.json"
PLOT = "results.svg"


@dataclass(frozen=True, kw_only=True, slots=True)
class SystemRow:
    """One system of a table.

    name: what it is, as a person reads it.
    score: mean nDCG@10, or, where nothing is judged, agreement with the teacher (mean Kendall's
        tau).  difference, p: against the first stage; p is of the paired randomisation test,
        Holm-corrected over all pairs of the table's systems; None where there is none.
    pairs_per_s: while ranking the test queries, reading of texts included.
    seconds: that its training took.
    """

    system: str
    name: str
    score: float
    interval: tuple[float, float] | None
    difference: float | None
    p: float | None
    parameters: int | None
    pairs_per_s: float | None
    seconds: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ExampleQuery:
    """The three best passages of one query, before and after. relevant: which are judged so."""

    query: str
    before: tuple[str, ...]
    after: tuple[str, ...]
    relevant_before: tuple[bool, ...]
    relevant_after: tuple[bool, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Untrained:
    """The first table: what the test queries get without any training.

    zero_shot: the model that ranks as it comes, as `dear rank --model` names it.
    """

    collection: str
    queries: int
    top_k: int
    measure: str
    zero_shot: str
    rows: tuple[SystemRow, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelsWorth:
    """Student minus control, which differ in the teacher's labels alone.

    difference: in the table's measure, with the bootstrap's 95 % interval.  p: of the paired
        randomisation test, Holm-corrected over all pairs of the final table's systems.
    start: the weights that both started from, TEACHER or the name of a base.
    """

    difference: float
    interval: tuple[float, float]
    p: float
    start: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Distilled:
    """What `distill` found out.

    untrained: None where no test query is judged.  labels_worth: None without a control.
    """

    folder: Path
    collection: str
    queries: int
    top_k: int
    measure: str
    untrained: Untrained | None
    rows: tuple[SystemRow, ...]
    labels_worth: LabelsWorth | None
    recommendation: Recommendation
    glimpse: ExampleQuery | None
    stage_seconds: Mapping[str, float]


class JudgedSystems:
    """Systems measured on the same judged queries, and compared.

    runs: system → run; FIRST is among them.  names: system → what it is.
    """

    def __init__(
        self,
        judgements: Judgements,
        runs: Mapping[str, Run],
        stages: Stages,
        names: Mapping[str, str],
    ) -> None:
        self._found = {name: evaluate(run, judgements, (MEASURE,)) for name, run in runs.items()}
        self._pairs = {(c.a, c.b): c for c in compare_all(self._found, MEASURE)}
        self._stages = stages
        self._names = names

    def rows(self) -> list[SystemRow]:
        """Each system's nDCG@10, compared with the first stage's."""
        return [
            _row(
                self._stages,
                name,
                self._names[name],
                evaluation.means[MEASURE],
                bootstrap_interval(list(evaluation.per_query[MEASURE].values())),
                evaluation.means[MEASURE] - self._found[FIRST].means[MEASURE],
                None if name == FIRST else self._pairs[FIRST, name].holm_randomisation,
            )
            for name, evaluation in self._found.items()
        ]

    def against(self, a: str, b: str) -> tuple[float, tuple[float, float]]:
        """(mean difference a - b, its 95 % interval)"""
        if (a, b) in self._pairs:
            found = self._pairs[a, b].comparison
            return found.difference, found.interval
        found = self._pairs[b, a].comparison
        return -found.difference, (-found.interval[1], -found.interval[0])

    def labels_worth(self, start: str) -> LabelsWorth | None:
        """start: the weights that student and control started from. None without a control."""
        if CONTROL not in self._found:
            return None
        compared = self._pairs[STUDENT, CONTROL]
        return LabelsWorth(
            difference=compared.comparison.difference,
            interval=compared.comparison.interval,
            p=compared.holm_randomisation,
            start=start,
        )


def agreement_rows(
    runs: Mapping[str, Run], stages: Stages, names: Mapping[str, str]
) -> list[SystemRow]:
    """Each system's agreement with the teacher, its own 1, where nothing is judged."""
    return [
        _row(stages, system, names[system], agreement(run, runs[TEACHER]), None, None, None)
        for system, run in runs.items()
    ]


def _row(
    stages: Stages,
    system: str,
    name: str,
    score: float,
    interval: tuple[float, float] | None,
    difference: float | None,
    p: float | None,
) -> SystemRow:
    stage = NO_LABELS if system == CONTROL else system.removesuffix(FUSED)
    ranked = stages.note_of(f"rank {stage}")
    if system == ZERO_SHOT and not ranked:  # it is the teacher
        ranked = stages.note_of("rank teacher")
    trained = stages.note_of(f"train {stage}")
    return SystemRow(
        system=system,
        name=name,
        score=score,
        interval=interval,
        difference=None if system == FIRST else difference,
        p=p,
        parameters=ranked.get("parameters"),
        pairs_per_s=ranked.get("pairs_per_s"),
        seconds=trained.get("seconds"),
    )


def agreement(run: Run, teacher: Run) -> float:
    """Mean Kendall's tau-b over the queries of `teacher`; a query that `run` lacks counts 0."""
    from scipy.stats import kendalltau

    total = 0.0
    for query_id, reference in teacher.items():
        ranking = run.get(query_id)
        if ranking is None or len(reference) < 2:
            continue
        mine = {p: -i for i, p in enumerate(ranking.passage_ids)}
        shared = [p for p in reference.passage_ids if p in mine]
        if len(shared) > 1:
            tau = kendalltau([mine[p] for p in shared], range(len(shared), 0, -1)).statistic
            total += float(tau)
    return total / len(teacher)


def example_query(
    collection: Collection, judgements: Judgements, runs: Mapping[str, Run]
) -> ExampleQuery | None:
    """The query whose best three gained most by the student, or by the teacher where none was
    trained, of those with a readable length."""

    first, last = runs[FIRST], runs[STUDENT if STUDENT in runs else TEACHER]
    before = evaluate(first, judgements, ("nDCG@3",)).per_query["nDCG@3"]
    after = evaluate(last, judgements, ("nDCG@3",)).per_query["nDCG@3"]
    queries, corpus = collection.queries(), collection.corpus
    both = [query_id for query_id in last if query_id in first]
    usable = [q for q in both if 20 <= len(queries[q].text) <= 90] or both
    if not usable:
        return None
    best = max(usable, key=lambda q: (after[q] - before[q], -stable_hash(q)))

    def show(ranking: Ranking) -> tuple[tuple[str, ...], tuple[bool, ...]]:
        ids = ranking.passage_ids[:3]
        return (
            tuple(corpus[p].full_text for p in ids),
            tuple(judgements[best].get(p, 0) >= collection.min_grade for p in ids),
        )

    texts_before, relevant_before = show(first[best])
    texts_after, relevant_after = show(last[best])
    return ExampleQuery(
        query=queries[best].text,
        before=texts_before,
        after=texts_after,
        relevant_before=relevant_before,
        relevant_after=relevant_after,
    )


def plot(found: Distilled) -> str:

    return bars(
        f"{found.collection}: {found.measure}",
        f"{found.queries:,} test queries, best {found.top_k} of BM25 reranked, 95 % intervals",
        [
            Bar(r.name, r.score, r.interval, strong=r.system in (STUDENT, STUDENT_FUSED))
            for r in found.rows
        ],
    )


def stable_hash(text: str) -> int:
    """The same on every machine and in every process, 64 bits."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
