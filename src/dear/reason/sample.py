"""Lists drawn from a run: which passages of a query are asked about, and in what order."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from dear.data.collections import Collection
from dear.data.groups import NEGATIVES, TeacherScores
from dear.data.held_out import normalised
from dear.data.label_texts import LabelCheck
from dear.data.labels import Labels
from dear.errors import ConfigError, DataError
from dear.records import Judgements, Passage, Query, Ranking, Run, every_nth


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A list that is to be ranked.

    passages: shuffled.  scores: the teacher's, one for each, or None.
    grades:   the judged ones, 0 where a passage is not judged; None where nothing is judged.
    """

    query: Query
    passages: tuple[Passage, ...]
    scores: tuple[float, ...] | None = None
    grades: tuple[int, ...] | None = None

    @property
    def key(self) -> str:
        """Of the texts alone: the same question in another run, or in another folder."""
        text = "\0".join([self.query.text, *(p.full_text for p in self.passages)])
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplePlan:
    """How lists are drawn.

    sizes: the smallest and the largest list; every size between is as likely.
    per_query: lists for each query.  top_k: candidates of a query to draw from.
    queries: at most so many, evenly spread over the run; all where None.
    """

    sizes: tuple[int, int] = (4, 20)
    per_query: int = 1
    top_k: int = 100
    queries: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        low, high = self.sizes
        if not 2 <= low <= high:
            raise ConfigError(f"lists of {low} to {high} passages: expected 2 <= low <= high")
        if self.per_query < 1 or self.top_k < low or (self.queries or 1) < 1:
            raise ConfigError(
                "lists: need 1 example a query or more, 1 query or more, and candidates for "
                f"{low} passages"
            )


def parse_sizes(text: str) -> tuple[int, int]:
    """`4-20`, or `10`. ConfigError: anything else."""
    low, dash, high = text.partition("-")
    try:
        return int(low), int(high if dash else low)
    except ValueError:
        raise ConfigError(f"--size {text!r}: expected a number, or two such as 4-20") from None


@dataclass(kw_only=True, slots=True)
class Drawn:
    """What sampling made.

    left_out: candidates that occur in a test collection, out of `candidates`.
    skipped:  reason → queries that gave no list.
    """

    questions: list[Question] = field(default_factory=list)
    candidates: int = 0
    left_out: int = 0
    skipped: Counter[str] = field(default_factory=Counter)


TOO_FEW, NO_LABELS, NOTHING_RELEVANT = "too few candidates", "no labels", "nothing relevant found"
LEAKS = "leaks"


def asked(
    run: Iterable[str],
    plan: SamplePlan,
    *,
    labels: Labels | None = None,
    judgements: Judgements | None = None,
    need_relevant: bool = False,
) -> list[str]:
    """The queries of a run that lists are drawn for; the arguments are those of `sample`."""
    ids = [q for q in run if judgements is None or not need_relevant or q in judgements]
    if labels is not None:
        ids = [q for q in ids if q in labels.scores] or ids
    return ids if plan.queries is None else every_nth(ids, plan.queries)


def sample(
    collection: Collection,
    run: Run,
    plan: SamplePlan,
    *,
    labels: Labels | None = None,
    check: LabelCheck | None = None,
    judgements: Judgements | None = None,
    need_relevant: bool = False,
    leaking_queries: Container[str] = frozenset(),
    leaking_passages: Container[str] = frozenset(),
) -> Drawn:
    """Lists for every query of `run`, spread over the score range and then shuffled.

    labels: spread over the teacher's scores, which the questions carry, and only queries and
        passages that have one; else over the run's.
    check: of these labels, which are then compared with the collection's texts.
    need_relevant: a list holds one relevant passage at least, of those that the run found.
    leaking_*: normalised texts that may not be in a list; a query with fewer than the smallest
        list left gives none.
    A query's lists depend on its id, the seed and its own candidates alone. Passages of equal text
    are taken once. DataError: labels of other texts.
    """
    ids = asked(run, plan, labels=labels, judgements=judgements, need_relevant=need_relevant)
    drawn = Drawn()
    queries, corpus = collection.queries(), collection.corpus
    scores = labels if check is None else check.over_collection(queries, corpus)
    text_of: dict[str, str] = {}  # normalised once, however many queries find a passage
    for query_id in ids:
        query = queries.get(query_id)
        if query is None:
            raise DataError(f"the run ranks for query {query_id!r}, which has no text")
        if normalised(query.text) in leaking_queries:
            drawn.skipped[LEAKS] += 1
            continue
        top = run[query_id].top(plan.top_k)
        pool = _pool(top, corpus, text_of, scores, leaking_passages, drawn, plan.sizes[0])
        if isinstance(pool, str):
            drawn.skipped[pool] += 1
            continue
        grades = None if judgements is None else judgements.get(query_id, {})
        found = [i for i, c in enumerate(pool) if (grades or {}).get(c.passage.id, 0) > 0]
        if need_relevant and not found:
            drawn.skipped[NOTHING_RELEVANT] += 1
            continue
        for number in range(plan.per_query):
            rng = np.random.default_rng(_seed(plan.seed, query_id, number))
            places = _draw(pool, plan.sizes, found if need_relevant else [], rng)
            drawn.questions.append(
                Question(
                    query=query,
                    passages=tuple(pool[i].passage for i in places),
                    scores=None if labels is None else tuple(pool[i].score for i in places),
                    grades=None
                    if grades is None
                    else tuple(max(0, grades.get(pool[i].passage.id, 0)) for i in places),
                )
            )
    if check is not None:
        check.require()
    return drawn


@dataclass(frozen=True, slots=True)
class _Candidate:
    passage: Passage
    score: float


def _pool(
    ranking: Ranking,
    corpus: Mapping[str, Passage],
    text_of: dict[str, str],
    labels: TeacherScores | None,
    leaking: Container[str],
    drawn: Drawn,
    at_least: int,
) -> list[_Candidate] | str:
    """The candidates of one query that may be in a list, or why there are too few."""
    scores = ranking.scores if labels is None else _label_scores(labels, ranking)
    pool: dict[str, _Candidate] = {}
    left_out = 0
    for passage_id, score in zip(ranking.passage_ids, scores, strict=True):
        passage = corpus.get(passage_id)
        if passage is None:
            raise DataError(
                f"query {ranking.query_id!r}: passage {passage_id!r} is not in the corpus"
            )
        if passage_id not in text_of:
            text_of[passage_id] = normalised(passage.full_text)
        text = text_of[passage_id]
        if text in leaking:
            left_out += 1
        elif text and score == score:
            pool.setdefault(text, _Candidate(passage, score))
    drawn.candidates += len(ranking)
    drawn.left_out += left_out
    if labels is not None and all(s != s for s in scores):
        return NO_LABELS
    if len(pool) < at_least:
        return LEAKS if len(pool) + left_out >= at_least else TOO_FEW
    return list(pool.values())


def _label_scores(labels: TeacherScores, ranking: Ranking) -> tuple[float, ...]:
    return tuple(labels.of(ranking.query_id, ranking.passage_ids).tolist())


def _draw(
    pool: list[_Candidate], sizes: tuple[int, int], relevant: list[int], rng: np.random.Generator
) -> list[int]:
    size = min(int(rng.integers(sizes[0], sizes[1] + 1)), len(pool))
    values = np.array([c.score for c in pool], dtype=np.float64)
    places = [int(i) for i in NEGATIVES["spread"](values, size, rng)]
    if relevant and not set(places) & set(relevant):
        places[int(rng.integers(size))] = relevant[int(rng.integers(len(relevant)))]
    return [places[i] for i in rng.permutation(size)]


def _seed(seed: int, query_id: str, number: int) -> int:
    # hash() differs between processes
    digest = hashlib.sha256(f"{seed}:{number}:{query_id}".encode()).digest()
    return int.from_bytes(digest[:8], "little")
