"""Does the order in which candidates arrive matter?"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from dear.evaluate.metrics import evaluate
from dear.evaluate.robustness.passages import score_change
from dear.evaluate.robustness.report import Line
from dear.evaluate.robustness.subject import NDCG, Subject, mean, pairs_turned
from dear.records import Candidates, Ranking

SHUFFLES = 3


def order(subject: Subject) -> Iterator[Line]:
    """The same candidates in other orders, each ranked on its own.

    A pointwise model must give every passage the same score. Of any other, the ranking should
    stay; and its nDCG should not depend on the start.
    """
    rankings: dict[str, Mapping[str, Ranking]] = {"as they came": subject.base}
    for name, many in _starts(subject).items():
        found = subject.rank_all({name: many})[name]
        if isinstance(found, str):
            yield Line(check="order", name=name, count=0, error=found)
            continue
        rankings[name] = found
        yield _line(subject, name, found)
    if not subject.pointwise and len(rankings) > 2:
        yield _between(subject, list(rankings.values()))


def _starts(subject: Subject) -> dict[str, list[Candidates]]:
    """The start "once more" is the order as it was: whether the same question has one answer."""
    starts: dict[str, list[Candidates]] = {
        "once more": list(subject.candidates),
        "reversed": [_in_order(c, range(len(c.passages) - 1, -1, -1)) for c in subject.candidates],
    }
    if subject.judged:
        starts["best first"] = [_by_grade(subject, c, best_first=True) for c in subject.candidates]
        starts["worst first"] = [
            _by_grade(subject, c, best_first=False) for c in subject.candidates
        ]
    for n in range(1, SHUFFLES + 1):
        starts[f"shuffled {n}"] = [_shuffled(subject, c, n) for c in subject.candidates]
    return starts


def _by_grade(subject: Subject, candidates: Candidates, *, best_first: bool) -> Candidates:
    grades = subject.judgements.get(candidates.query.id, {})
    sign = -1 if best_first else 1
    places = range(len(candidates.passages))
    by_grade = sorted(places, key=lambda i: sign * grades.get(candidates.passages[i].id, 0))
    return _in_order(candidates, by_grade)


def _shuffled(subject: Subject, candidates: Candidates, n: int) -> Candidates:
    count = len(candidates.passages)
    rng = subject.rng("order", n, candidates.query.id)
    return _in_order(candidates, rng.sample(range(count), count))


def _in_order(candidates: Candidates, places: Sequence[int]) -> Candidates:
    """The first stage's scores stay with their passages."""
    return replace(
        candidates,
        passages=tuple(candidates.passages[i] for i in places),
        scores=tuple(candidates.scores[i] for i in places),
    )


def _line(subject: Subject, name: str, found: dict[str, Ranking]) -> Line:
    same = mean(r.passage_ids == subject.base[q].passage_ids for q, r in found.items())
    turned = mean(pairs_turned(subject.base[q], r) for q, r in found.items())
    numbers = {
        "same rankings": same,
        "same top": subject.same_top(found),
        "pairs turned": turned,
    }
    if not subject.pointwise:
        value, limit = turned, "pairs turned"
    else:
        limit = "score change"
        value = max(
            score_change(r, i, subject.base[q], i) for q, r in found.items() for i in r.passage_ids
        )
    return Line(
        check="order",
        name=name,
        count=len(found),
        value=value,
        limit=limit,
        numbers=numbers,
        comparison=subject.ndcg(found),
    )


def _between(subject: Subject, rankings: Sequence[Mapping[str, Ranking]]) -> Line:
    """Over all pairs of starts."""
    pairs = list(itertools.combinations(rankings, 2))
    turned = mean(pairs_turned(a[q], b[q]) for a, b in pairs for q in a)
    top = subject.top
    numbers = {
        "pairs turned": turned,
        "same top": mean(
            a[q].passage_ids[:top] == b[q].passage_ids[:top] for a, b in pairs for q in a
        ),
    }
    value, limit = turned, "pairs turned"
    if subject.judged:
        means = [evaluate(r, subject.judged, [NDCG]).means[NDCG] for r in rankings]
        value, limit = max(means) - min(means), "nDCG spread"
        numbers |= {"best nDCG": max(means), "worst nDCG": min(means)}
    return Line(
        check="order",
        name="between any two",
        count=len(rankings[0]),
        value=value,
        limit=limit,
        numbers=numbers,
    )
