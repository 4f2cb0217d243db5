"""Training groups: a query, its positives and negatives, sampled once, by id.

Teacher and student see the same passages because both are looked up by the ids sampled here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

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


Picker = Callable[[Sequence[str], "np.ndarray | None", int, np.random.Generator], list[str]]
"""(pool in rank order, teacher scores of the pool or None, count, generator) → passage ids."""


def _random(
    pool: Sequence[str], _teacher: np.ndarray | None, count: int, rng: np.random.Generator
) -> list[str]:
    return [pool[i] for i in rng.permutation(len(pool))[:count]]


def _hardest(
    pool: Sequence[str], teacher: np.ndarray | None, count: int, _rng: np.random.Generator
) -> list[str]:
    order = range(len(pool)) if teacher is None else np.argsort(-teacher, kind="stable")
    return [pool[i] for i in list(order)[:count]]


def _spread(
    pool: Sequence[str], teacher: np.ndarray | None, count: int, rng: np.random.Generator
) -> list[str]:
    """Evenly over the score range: one candidate near each of `count` jittered scores, so that
    the few that score high are as well represented as the many that score low."""
    values = -np.arange(len(pool), dtype=np.float64) if teacher is None else teacher
    free = list(np.argsort(-values, kind="stable"))
    high, low = float(values[free[0]]), float(values[free[-1]])
    steps = (np.arange(count) + rng.random(count)) / count
    picked = []
    for aim in high - steps * (high - low):
        if not free:
            break
        nearest_free = min(range(len(free)), key=lambda i: abs(values[free[i]] - aim))
        picked.append(pool[free.pop(nearest_free)])
    return picked


NEGATIVES: dict[str, Picker] = {"random": _random, "hardest": _hardest, "spread": _spread}


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
    """Groups of `size` passages for every query of `run` that can give one.

    judgements: with them a group opens with 1 to `positives` relevant passages (grade > 0,
        highest grades first, whether or not the run found them) and goes on with passages that
        are not relevant; without them all passages come from the run.
    labels: the teacher's scores; every sampled pair must have one (DataError counts those that
        have none).
    per_query: groups for each query; each draws anew.
    negatives: "random", "hardest" (first by the teacher, else by the run) or "spread" over the
        teacher's score range (else over the ranks), out of ranks rank_from to rank_to
        (1 is the first, both included).
    A query's groups depend on its id, `seed` and its own candidates alone. Queries without a
    relevant passage or without a single negative give none.
    """
    if negatives not in NEGATIVES:
        raise ConfigError(f"no negatives {negatives!r}{nearest(negatives, NEGATIVES)}")
    if size < 2 or not 1 <= positives < size or per_query < 1:
        raise ConfigError("groups: need size >= 2, 1 <= positives < size, per_query >= 1")
    if not 1 <= rank_from <= rank_to:
        raise ConfigError(f"groups: ranks {rank_from} to {rank_to} are no range")
    groups: list[Group] = []
    missing = 0
    for query_id, ranking in run.items():
        rng = np.random.default_rng(_seed_of(seed, query_id))
        grades = judgements.get(query_id, {}) if judgements is not None else None
        for _ in range(per_query):
            ids = _sample(
                ranking, grades, labels, size, positives, negatives, rank_from, rank_to, rng
            )
            if ids is None:
                continue
            teacher = None
            if labels is not None:
                found = labels.of(query_id, ids)
                missing += int(np.isnan(found).sum())
                teacher = tuple(float(x) for x in found)
            groups.append(
                Group(
                    query_id=query_id,
                    passage_ids=tuple(ids),
                    grades=tuple(max(0, (grades or {}).get(p, 0)) for p in ids),
                    teacher=teacher,
                )
            )
    if missing:
        raise DataError(
            f"{missing} of {sum(map(len, groups))} sampled pairs have no label; run `dear label` "
            "over the same run, with --judged for the relevant passages that it lacks"
        )
    return groups


def _sample(
    ranking: Ranking,
    grades: Mapping[str, int] | None,
    labels: Labels | None,
    size: int,
    positives: int,
    negatives: str,
    rank_from: int,
    rank_to: int,
    rng: np.random.Generator,
) -> list[str] | None:
    chosen: list[str] = []
    if grades is not None:
        chosen = _positives(grades, positives, rng)
        if not chosen:
            return None
    pool = [
        p
        for p in ranking.passage_ids[rank_from - 1 : rank_to]
        if not grades or grades.get(p, 0) <= 0
    ]
    if not pool:
        return None
    teacher = None
    if labels is not None:
        teacher = labels.of(ranking.query_id, pool).astype(np.float64)
        if np.isnan(teacher).any():
            # the caller counts what is missing; sample as if the rank were the score
            teacher = None
    ids = chosen + NEGATIVES[negatives](pool, teacher, size - len(chosen), rng)
    return ids if len(ids) >= 2 else None


def _positives(grades: Mapping[str, int], count: int, rng: np.random.Generator) -> list[str]:
    relevant = sorted(p for p, grade in grades.items() if grade > 0)
    shuffled = [relevant[i] for i in rng.permutation(len(relevant))]
    return sorted(shuffled, key=lambda p: -grades[p])[:count]


def _seed_of(seed: int, query_id: str) -> int:
    # hash() differs between processes
    return int.from_bytes(hashlib.sha256(f"{seed}:{query_id}".encode()).digest()[:8], "little")
