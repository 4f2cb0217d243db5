"""Runs of one collection, measured and compared: what tables, reports and JSON are made from."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dear.errors import ConfigError
from dear.evaluate.compare import PairwiseComparison, compare_pairs
from dear.evaluate.metrics import COMPARED, MEASURES, Evaluation, evaluate, parse_measures
from dear.evaluate.paired import bootstrap_interval
from dear.records import Judgements, Ranking, Run

MeasureRun = Callable[[Run], Evaluation]


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSource:
    """A run as it is handed in.

    first_stage: name of the source that it reranked; None for a first stage's own run.
    path, origin: its file, and the note beside it (dear.data.origins), where there are any.
    """

    name: str
    run: Run
    first_stage: str | None = None
    path: Path | None = None
    origin: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A run with its measures."""

    source: RunSource
    evaluation: Evaluation

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def is_first_stage(self) -> bool:
        return self.source.first_stage is None

    def interval(self, measure: str) -> tuple[float, float]:
        """95 % bootstrap interval of the mean, over queries; drawn anew at each call."""
        return bootstrap_interval(list(self.evaluation.per_query[measure].values()))


@dataclass(frozen=True, kw_only=True, slots=True)
class CandidateChange:
    """One query under the compared measure: the first stage's value, and the run's."""

    query_id: str
    before: float
    after: float

    @property
    def difference(self) -> float:
        return self.after - self.before


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """Two runs that are not compared: they rank different candidates, or no query in common.

    queries: those with other candidates.  shared: those that both rank.
    """

    a: str
    b: str
    queries: int
    shared: int

    @property
    def reason(self) -> str:
        if not self.shared:
            return "no query in common"
        return f"other candidates for {self.queries} of {self.shared} queries"


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """Entries of one collection, and every pair of them that can be compared.

    compared: the one of `measures` by which they are.
    comparisons: the later entry is `a`, and always what reranked the other, so that a gain over
    the first stage is positive.
    """

    collection: str
    split: str
    measures: tuple[str, ...]
    compared: str
    min_grade: int
    judgements: Judgements
    entries: tuple[Entry, ...]
    comparisons: tuple[PairwiseComparison, ...]
    refusals: tuple[Refusal, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def query_ids(self) -> tuple[str, ...]:
        """The judged queries: what every mean is taken over."""
        return tuple(next(iter(self.entries[0].evaluation.per_query.values())))

    def entry(self, name: str) -> Entry:
        """By name. ConfigError where there is none."""
        for entry in self.entries:
            if entry.name == name:
                return entry
        raise ConfigError(f"no run {name!r}; there are: {', '.join(e.name for e in self.entries)}")

    def against_first_stage(self, entry: Entry) -> PairwiseComparison | None:
        """The comparison of an entry with what it reranked; None for a first stage, or where it
        was refused."""
        wanted = entry.name, entry.source.first_stage
        return next((p for p in self.comparisons if (p.a, p.b) == wanted), None)

    def differences(self, entry: Entry) -> dict[str, float]:
        """Query id → after minus before, in the order of `changes`."""
        return {change.query_id: change.difference for change in self.changes(entry)}

    def changes(self, entry: Entry) -> list[CandidateChange]:
        """Every query before and after, worst difference first, then by id; empty for a first
        stage."""
        if entry.source.first_stage is None:
            return []
        before = self.entry(entry.source.first_stage).evaluation.per_query[self.compared]
        after = entry.evaluation.per_query[self.compared]
        found = [CandidateChange(query_id=q, before=before[q], after=after[q]) for q in after]
        return sorted(found, key=lambda change: (change.difference, change.query_id))

    def hurt(self, entry: Entry, count: int) -> list[CandidateChange]:
        """At most `count` queries that lost most against the first stage; none where the two are
        not compared."""
        if self.against_first_stage(entry) is None:
            return []
        return [change for change in self.changes(entry)[:count] if change.difference < 0]

    def to_dict(self, *, per_query: bool = False) -> dict[str, Any]:
        """For a JSON file."""
        return {
            "collection": self.collection,
            "split": self.split,
            "queries": len(self.query_ids),
            "min_grade": self.min_grade,
            "measures": list(self.measures),
            "runs": [_entry_dict(entry, per_query) for entry in self.entries],
            "compared_by": self.compared,
            "comparisons": [
                {
                    "a": pair.a,
                    "b": pair.b,
                    **asdict(pair.comparison),
                    "holm_randomisation": pair.holm_randomisation,
                    "holm_t": pair.holm_t,
                }
                for pair in self.comparisons
            ],
            "not_compared": [asdict(r) for r in self.refusals],
            "notes": list(self.notes),
        }


def study(
    collection: str,
    split: str,
    judgements: Judgements,
    sources: Sequence[RunSource],
    *,
    measures: Sequence[str] = MEASURES,
    compared: str | None = None,
    min_grade: int = 1,
    across_candidates: bool = False,
    measure_run: MeasureRun | None = None,
    seed: int = 0,
) -> Study:
    """Measure every source and compare every pair over the same candidates.

    compared: by which measure; without one, nDCG@10 for the default measures, else the first.
    across_candidates: compare also what ranks different candidates.
    measure_run: what measures a run, where that is not `evaluate` with the judgements; `measures`
    are then the names of what it gives.
    ConfigError: no source, a name twice, a first stage that is no source, a `compared` that is
    not among the measures.
    """
    _check(sources)
    if measure_run is None:
        names = [m.name for m in parse_measures(measures)]
        measure_run = partial(evaluate, judgements=judgements, measures=names, min_grade=min_grade)
    else:
        names = list(measures)
    by = _compared(names, compared)
    entries = tuple(Entry(source=s, evaluation=measure_run(s.run)) for s in sources)
    notes = [line for entry in entries for line in _missing(entry)]
    wanted, refused = [], []
    for before, after in map(_in_order, itertools.combinations(entries, 2)):
        refusal = None if across_candidates else other_candidates(after.source, before.source)
        if refusal is None:
            wanted.append((after.name, before.name))
        else:
            refused.append(refusal)
    pairs: list[PairwiseComparison] = []
    if wanted and len(next(iter(entries[0].evaluation.per_query.values()))) < 2:
        notes.append("one judged query is too few to compare runs")
    elif wanted:
        pairs = compare_pairs({e.name: e.evaluation for e in entries}, wanted, by, seed=seed)
    return Study(
        collection=collection,
        split=split,
        measures=tuple(names),
        compared=by,
        min_grade=min_grade,
        judgements=judgements,
        entries=entries,
        comparisons=tuple(pairs),
        refusals=tuple(refused),
        notes=tuple(notes),
    )


def other_candidates(a: RunSource, b: RunSource) -> Refusal | None:
    """Why a cannot be compared with b; None where they rank the same candidates.

    They do where, for every query that both rank, the passages are the same, or where one is the
    other's first stage and its best passages are what the other ranked: a first stage that was
    reranked to some depth may be compared with the result. Runs without a common query cannot be
    compared.
    """
    shared = [q for q in a.run if q in b.run]
    other = sum(not _same_candidates(a, b, q) for q in shared)
    if shared and not other:
        return None
    return Refusal(a=a.name, b=b.name, queries=other, shared=len(shared))


def _same_candidates(a: RunSource, b: RunSource, query_id: str) -> bool:
    mine, theirs = a.run[query_id], b.run[query_id]
    if a.first_stage == b.name:
        return _are_best(mine.passage_ids, theirs)
    if b.first_stage == a.name:
        return _are_best(theirs.passage_ids, mine)
    return len(mine) == len(theirs) and set(mine.passage_ids) == set(theirs.passage_ids)


def _are_best(passage_ids: Sequence[str], first: Ranking) -> bool:
    """Whether these can be the best of `first`, whichever of equal scores were taken at the cut."""
    if not 0 < len(passage_ids) <= len(first):
        return len(passage_ids) == len(first)
    taken = set(passage_ids)
    cut = first.scores[len(passage_ids) - 1]
    scored = zip(first.passage_ids, first.scores, strict=True)
    allowed = {p: s for p, s in scored if s >= cut}
    return taken <= allowed.keys() and all(p in taken for p, s in allowed.items() if s > cut)


def _in_order(pair: tuple[Entry, Entry]) -> tuple[Entry, Entry]:
    """A first stage before what reranked it, whichever was named first."""
    one, other = pair
    return (other, one) if one.source.first_stage == other.name else pair


def _check(sources: Sequence[RunSource]) -> None:
    if not sources:
        raise ConfigError("no run to evaluate")
    names = [s.name for s in sources]
    twice = next((n for n in names if names.count(n) > 1), None)
    if twice is not None:
        raise ConfigError(f"two runs are called {twice!r}")
    for s in sources:
        if s.first_stage == s.name:
            raise ConfigError(f"{s.name}: a run cannot be its own first stage")
        if s.first_stage is not None and s.first_stage not in names:
            raise ConfigError(f"{s.name}: its first stage {s.first_stage!r} is not among the runs")


def _compared(names: Sequence[str], wanted: str | None) -> str:
    if not names:
        raise ConfigError("no measure to evaluate by")
    if wanted is None:
        return COMPARED if tuple(names) == MEASURES else names[0]
    if wanted in names:
        return wanted
    (measure,) = parse_measures([wanted])
    if measure.name not in names:
        raise ConfigError(f"{measure.name} is to be compared, but it is not measured")
    return measure.name


def _missing(entry: Entry) -> Iterator[str]:
    evaluation = entry.evaluation
    if evaluation.missing:
        queries = len(next(iter(evaluation.per_query.values())))
        yield (
            f"{entry.name} lacks {len(evaluation.missing)} of {queries} judged queries, "
            f"such as {evaluation.missing[0]}; they count as zero"
        )
    if evaluation.unjudged:
        many = "query" if evaluation.unjudged == 1 else "queries"
        yield (
            f"{entry.name} ranks for {evaluation.unjudged} {many} that nobody judged; "
            "they count nowhere"
        )


def _entry_dict(entry: Entry, per_query: bool) -> dict[str, Any]:
    source, evaluation = entry.source, entry.evaluation
    return {
        "name": entry.name,
        "path": None if source.path is None else str(source.path),
        "first_stage": entry.is_first_stage,
        "reranked": source.first_stage,
        "made_by": None if source.origin is None else dict(source.origin),
        "means": evaluation.means,
        "intervals": {measure: entry.interval(measure) for measure in evaluation.means},
        "missing": list(evaluation.missing),
        "unjudged": evaluation.unjudged,
        **({"per_query": evaluation.per_query} if per_query else {}),
    }
