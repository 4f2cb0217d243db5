"""Training groups: a query, its positives and negatives, sampled once, by id.

Teacher and student see the same passages because both are looked up by the ids sampled here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dear.errors import ConfigError, DataError, nearest
from dear.records import Judgements, Run


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """One query's training list: positives first, then negatives.

    grades: one for each passage; all 0 where nothing was judged.
    teacher: one score for each passage, or None.
    """

    query_id: str
    passage_ids: tuple[str, ...]
    grades: tuple[int, ...]
    teacher: tuple[float, ...] | None = None

    def __len__(self) -> int:
        return len(self.passage_ids)


class TeacherScores(Protocol):
    """A teacher's scores by id: `dear.data.labels.Labels`, or those in the rows themselves."""

    def of(self, query_id: str, passage_ids: Sequence[str]) -> NDArray[np.float32]:
        """float32 (n,); NaN where there is no score."""
        ...


Picker = Callable[[NDArray[np.float64], int, np.random.Generator], Sequence[int]]
"""(score of each candidate, count, generator) → positions of at most `count` candidates.

The scores are the teacher's, or fall by 1 with each rank where there is no teacher. Candidates
come in the run's order.
"""


def _random(values: NDArray[np.float64], count: int, rng: np.random.Generator) -> Sequence[int]:
    return [int(i) for i in rng.permutation(len(values))[:count]]


def _hardest(values: NDArray[np.float64], count: int, _rng: np.random.Generator) -> Sequence[int]:
    return [int(i) for i in np.argsort(-values, kind="stable")[:count]]


def _spread(values: NDArray[np.float64], count: int, rng: np.random.Generator) -> Sequence[int]:
    """Evenly over the score range: one candidate near each of `count` jittered scores, so that
    the few that score high are as well represented as the many that score low."""
    high, low = float(values.max()), float(values.min())
    aims = high - (np.arange(count) + rng.random(count)) / count * (high - low)
    order = np.argsort(-values, kind="stable")  # of two that are as near, the higher
    taken = np.zeros(len(values), dtype=bool)
    picked = []
    for aim in aims[: len(values)]:
        distances = np.where(taken[order], np.inf, np.abs(values[order] - aim))
        picked.append(int(order[np.argmin(distances)]))
        taken[picked[-1]] = True
    return picked


NEGATIVES: dict[str, Picker] = {"random": _random, "hardest": _hardest, "spread": _spread}
READS_SCORES = frozenset({"hardest", "spread"})
"""The negatives that look at the score of every candidate before they choose."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupPlan:
    """How groups are drawn; see `sample_groups`. ConfigError for what makes no sense."""

    size: int = 8
    positives: int = 1
    per_query: int = 1
    negatives: str = "spread"
    rank_from: int = 1
    rank_to: int = 100
    shuffle_positives: bool = True
    min_margin: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.negatives not in NEGATIVES:
            raise ConfigError(
                f"groups: no negatives {self.negatives!r}{nearest(self.negatives, NEGATIVES)}"
            )
        if self.size < 2 or not 1 <= self.positives < self.size or self.per_query < 1:
            raise ConfigError("groups: need size >= 2, 1 <= positives < size, per_query >= 1")
        if not 1 <= self.rank_from <= self.rank_to:
            raise ConfigError(f"groups: ranks {self.rank_from} to {self.rank_to} are no range")

    @property
    def reads_pool(self) -> bool:
        """Whether the teacher's score of every candidate is looked at."""
        return self.negatives in READS_SCORES or self.min_margin is not None


@dataclass(slots=True)
class Tally:
    """What sampling met. unlabelled: pairs without the label that they need, of `looked_up`.

    too_close: negatives, counted once a group, that the margin left out.
    """

    looked_up: int = 0
    unlabelled: int = 0
    too_close: int = 0

    def require_labels(self) -> None:
        """DataError where a label is missing: it is no default."""
        if self.unlabelled:
            raise DataError(
                f"{self.unlabelled} of {self.looked_up} pairs to sample from have no label; run "
                "`dear label` over the same run, with --judged for the relevant passages that it "
                "lacks, or narrow rank_from and rank_to"
            )


def sample_groups(
    run: Run,
    *,
    judgements: Judgements | None = None,
    labels: TeacherScores | None = None,
    size: int = 8,
    positives: int = 1,
    per_query: int = 1,
    negatives: str = "spread",
    rank_from: int = 1,
    rank_to: int = 100,
    shuffle_positives: bool = True,
    min_margin: float | None = None,
    seed: int = 0,
    same_text: Mapping[str, Container[str]] | None = None,
    tally: Tally | None = None,
) -> list[Group]:
    """Groups of at most `size` passages for every query of `run` that can give one.

    judgements: with them a group opens with 1 to `positives` relevant passages (grade > 0,
        highest grades first, whether or not the run found them) and goes on with passages that
        are not relevant; without them all passages come from the run, and a group may hold 2
        or more of any kind.
    labels: the teacher's scores. Every passage in a group must have one, and so must every
        candidate that "hardest", "spread" or the margin choose from; DataError counts those that
        have none.
    per_query: groups for each query; each draws anew ("hardest" draws only the positives anew).
    negatives: "random", "hardest" (first by the teacher, else by the run) or "spread" over the
        teacher's score range (else over the ranks), out of ranks rank_from to rank_to
        (1 is the first, both included).
    shuffle_positives: of equal grades, which come in is drawn; else the first as they are listed.
    min_margin: a negative must score so much below every positive of its group, by the teacher's
        score; what does not may be relevant without a judgement (NV-Retriever, Moreira et al.
        2024, TopK-MarginPos). None leaves all in.
    same_text: query id → passages that repeat a relevant passage's text; they are no negatives.
    A query's groups depend on its id, `seed`, its judgements and its own candidates alone.
    Queries without a relevant passage or without a single negative give none.
    ConfigError for sizes, ranks or negatives that make no sense.
    """
    plan = GroupPlan(
        size=size,
        positives=positives,
        per_query=per_query,
        negatives=negatives,
        rank_from=rank_from,
        rank_to=rank_to,
        shuffle_positives=shuffle_positives,
        min_margin=min_margin,
        seed=seed,
    )
    tally = Tally() if tally is None else tally
    groups: list[Group] = []
    for query_id, ranking in run.items():
        grades = None if judgements is None else judgements.get(query_id, {})
        out = (same_text or {}).get(query_id, ())
        groups += groups_of(query_id, ranking.passage_ids, grades, labels, plan, out, tally)
    tally.require_labels()
    return groups


def groups_of(
    query_id: str,
    candidates: Sequence[str],
    grades: Mapping[str, int] | None,
    labels: TeacherScores | None,
    plan: GroupPlan,
    left_out: Container[str] = (),
    tally: Tally | None = None,
) -> list[Group]:
    """All groups of one query; see `sample_groups`.

    candidates: passage ids, best first.  left_out: those that are no negatives.
    tally: counts what was met; missing labels are its caller's error to raise.
    """
    tally = Tally() if tally is None else tally
    if plan.min_margin is not None and labels is None:
        raise ConfigError("groups.min_margin compares a teacher's scores; name its `labels`")
    pool = _pool(candidates, grades, plan, left_out)
    if not pool:
        return []
    values = -np.arange(len(pool), dtype=np.float64)
    if labels is not None:
        scores = labels.of(query_id, pool).astype(np.float64)
        # where one is missing, sampling goes on by rank, only to count all that are
        values = values if np.isnan(scores).any() else scores
    rng = np.random.default_rng(_seed_of(plan.seed, query_id))
    groups: list[Group] = []
    for _ in range(plan.per_query):
        chosen = [] if grades is None else _positives(grades, plan, rng)
        if grades is not None and not chosen:
            break
        places = _below(values, query_id, chosen, labels, plan)
        tally.too_close += len(pool) - len(places)
        if not len(places):
            continue
        picked = NEGATIVES[plan.negatives](values[places], plan.size - len(chosen), rng)
        ids = (*chosen, *(pool[places[i]] for i in picked))
        if len(ids) < 2:
            break
        groups.append(_group(query_id, ids, grades or {}, labels))
    if labels is not None and groups:
        needed = {p for group in groups for p in group.passage_ids}
        needed.update(pool if plan.reads_pool else ())
        tally.looked_up += len(needed)
        tally.unlabelled += int(np.isnan(labels.of(query_id, list(needed))).sum())
    return groups


def _below(
    values: NDArray[np.float64],
    query_id: str,
    chosen: Sequence[str],
    labels: TeacherScores | None,
    plan: GroupPlan,
) -> NDArray[np.intp]:
    """Positions of the candidates that score far enough below every chosen positive."""
    everyone = np.arange(len(values))
    if plan.min_margin is None or labels is None or not chosen:
        return everyone
    scores = labels.of(query_id, chosen).astype(np.float64)
    if np.isnan(scores).any():  # counted, and an error in the end
        return everyone
    return np.flatnonzero(values <= float(scores.min()) - plan.min_margin)


def _group(
    query_id: str, ids: tuple[str, ...], grades: Mapping[str, int], labels: TeacherScores | None
) -> Group:
    teacher = None if labels is None else tuple(labels.of(query_id, ids).tolist())
    return Group(
        query_id=query_id,
        passage_ids=ids,
        grades=tuple(max(0, grades.get(p, 0)) for p in ids),
        teacher=teacher,
    )


def _pool(
    candidates: Sequence[str],
    grades: Mapping[str, int] | None,
    plan: GroupPlan,
    left_out: Container[str],
) -> list[str]:
    """Candidates for negatives, in their order."""
    ranked = candidates[plan.rank_from - 1 : plan.rank_to]
    return [p for p in ranked if (not grades or grades.get(p, 0) <= 0) and p not in left_out]


def _positives(grades: Mapping[str, int], plan: GroupPlan, rng: np.random.Generator) -> list[str]:
    relevant = [p for p, grade in grades.items() if grade > 0]
    if plan.shuffle_positives:
        relevant.sort()  # the order in which judgements are listed means nothing
        relevant = [relevant[i] for i in rng.permutation(len(relevant))]
    return sorted(relevant, key=lambda p: -grades[p])[: plan.positives]


def _seed_of(seed: int, query_id: str) -> int:
    # hash() differs between processes
    return int.from_bytes(hashlib.sha256(f"{seed}:{query_id}".encode()).digest()[:8], "little")
