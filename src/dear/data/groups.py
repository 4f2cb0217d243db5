"""Training groups: a query, its positives and negatives, sampled once, by id.

Teacher and student see the same passages because both are looked up by the ids sampled here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dear.data.labels import Labels
from dear.errors import ConfigError, DataError, nearest
from dear.records import Judgements, Ranking, Run


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
class _Plan:
    """How groups are drawn, checked; see `sample_groups`."""

    size: int
    positives: int
    per_query: int
    negatives: str
    rank_from: int
    rank_to: int

    def __post_init__(self) -> None:
        if self.negatives not in NEGATIVES:
            raise ConfigError(
                f"groups: no negatives {self.negatives!r}{nearest(self.negatives, NEGATIVES)}"
            )
        if self.size < 2 or not 1 <= self.positives < self.size or self.per_query < 1:
            raise ConfigError("groups: need size >= 2, 1 <= positives < size, per_query >= 1")
        if not 1 <= self.rank_from <= self.rank_to:
            raise ConfigError(f"groups: ranks {self.rank_from} to {self.rank_to} are no range")


def sample_groups(
    run: Run,
    *,
    judgements: Judgements | None = None,
    labels: Labels | None = None,
    size: int = 8,
    positives: int = 1,
    per_query: int = 1,
    negatives: str = "spread",
    rank_from: int = 1,
    rank_to: int = 100,
    seed: int = 0,
) -> list[Group]:
    """Groups of at most `size` passages for every query of `run` that can give one.

    judgements: with them a group opens with 1 to `positives` relevant passages (grade > 0,
        highest grades first, whether or not the run found them) and goes on with passages that
        are not relevant; without them all passages come from the run, and a group may hold 2
        or more of any kind.
    labels: the teacher's scores. Every passage in a group must have one, and so must every
        candidate that "hardest" or "spread" choose from; DataError counts those that have none.
    per_query: groups for each query; each draws anew ("hardest" draws only the positives anew).
    negatives: "random", "hardest" (first by the teacher, else by the run) or "spread" over the
        teacher's score range (else over the ranks), out of ranks rank_from to rank_to
        (1 is the first, both included).
    A query's groups depend on its id, `seed`, its judgements and its own candidates alone.
    Queries without a relevant passage or without a single negative give none.
    ConfigError for sizes, ranks or negatives that make no sense.
    """
    plan = _Plan(
        size=size,
        positives=positives,
        per_query=per_query,
        negatives=negatives,
        rank_from=rank_from,
        rank_to=rank_to,
    )
    groups: list[Group] = []
    unlabelled: set[tuple[str, str]] = set()
    looked_up = 0
    for query_id, ranking in run.items():
        grades = None if judgements is None else judgements.get(query_id, {})
        rng = np.random.default_rng(_seed_of(seed, query_id))
        found = _groups_of(ranking, grades, labels, plan, rng)
        groups += found
        if labels is not None and found:
            needed = _needed(ranking, grades, found, plan)
            looked_up += len(needed)
            unlabelled.update((query_id, p) for p in needed if (query_id, p) not in labels)
    if unlabelled:
        raise DataError(
            f"{len(unlabelled)} of {looked_up} pairs to sample from have no label; run "
            "`dear label` over the same run, with --judged for the relevant passages that it "
            "lacks, or narrow rank_from and rank_to"
        )
    return groups


def _groups_of(
    ranking: Ranking,
    grades: Mapping[str, int] | None,
    labels: Labels | None,
    plan: _Plan,
    rng: np.random.Generator,
) -> list[Group]:
    """All groups of one query."""
    pool = _pool(ranking, grades, plan)
    if not pool:
        return []
    values = -np.arange(len(pool), dtype=np.float64)
    if labels is not None:
        scores = labels.of(ranking.query_id, pool).astype(np.float64)
        # where one is missing, sampling goes on by rank, only to count all that are
        values = values if np.isnan(scores).any() else scores
    groups = []
    for _ in range(plan.per_query):
        chosen = [] if grades is None else _positives(grades, plan.positives, rng)
        if grades is not None and not chosen:
            break
        places = NEGATIVES[plan.negatives](values, plan.size - len(chosen), rng)
        ids = (*chosen, *(pool[i] for i in places))
        if len(ids) < 2:
            break
        groups.append(_group(ranking.query_id, ids, grades or {}, labels))
    return groups


def _group(
    query_id: str, ids: tuple[str, ...], grades: Mapping[str, int], labels: Labels | None
) -> Group:
    teacher = None if labels is None else tuple(labels.of(query_id, ids).tolist())
    return Group(
        query_id=query_id,
        passage_ids=ids,
        grades=tuple(max(0, grades.get(p, 0)) for p in ids),
        teacher=teacher,
    )


def _pool(ranking: Ranking, grades: Mapping[str, int] | None, plan: _Plan) -> list[str]:
    """Candidates for negatives, in the run's order."""
    ranked = ranking.passage_ids[plan.rank_from - 1 : plan.rank_to]
    return [p for p in ranked if not grades or grades.get(p, 0) <= 0]


def _positives(grades: Mapping[str, int], count: int, rng: np.random.Generator) -> list[str]:
    relevant = sorted(p for p, grade in grades.items() if grade > 0)
    shuffled = [relevant[i] for i in rng.permutation(len(relevant))]
    return sorted(shuffled, key=lambda p: -grades[p])[:count]


def _needed(
    ranking: Ranking, grades: Mapping[str, int] | None, groups: Sequence[Group], plan: _Plan
) -> set[str]:
    """The passages of one query whose labels are read."""
    needed = {p for group in groups for p in group.passage_ids}
    if plan.negatives in READS_SCORES:
        needed.update(_pool(ranking, grades, plan))
    return needed


def _seed_of(seed: int, query_id: str) -> int:
    # hash() differs between processes
    return int.from_bytes(hashlib.sha256(f"{seed}:{query_id}".encode()).digest()[:8], "little")
