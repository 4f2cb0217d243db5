"""What a ranker does when its input is not what it was built for.

    report = check(candidates, judgements, reranker, pointwise=True)

Every check changes the candidates in a small, seeded way, ranks them again and measures what
became of the ranking. Nothing here knows a model: a ranker is what has `rank_candidates`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from dear.errors import ConfigError, DataError, nearest
from dear.evaluate.robustness.checks import (
    extremes,
    injection,
    near_duplicates,
    order,
    queries,
    truncation,
)
from dear.evaluate.robustness.subject import (
    LIMITS,
    NDCG,
    VERDICTS,
    CandidateRanker,
    Limit,
    Line,
    RobustnessReport,
    Subject,
    Verdict,
)
from dear.records import Candidates, Judgements

__all__ = [
    "CHECKS",
    "LIMITS",
    "VERDICTS",
    "CandidateRanker",
    "Limit",
    "Line",
    "RobustnessReport",
    "Verdict",
    "check",
    "parse_checks",
]

CHECKS: Mapping[str, Callable[[Subject], Iterator[Line]]] = {
    "order": order,
    "injection": injection,
    "near-duplicates": near_duplicates,
    "truncation": truncation,
    "queries": queries,
    "extremes": extremes,
}


def parse_checks(text: str | None) -> tuple[str, ...]:
    """`order,injection` as names of CHECKS, all of them for None. ConfigError: no such check."""
    if text is None:
        return tuple(CHECKS)
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in CHECKS:
            raise ConfigError(f"no check {name!r}{nearest(name, CHECKS)}")
    if not names:
        raise ConfigError(f"no check is named; there are: {', '.join(CHECKS)}")
    return tuple(name for name in CHECKS if name in names)


def check(
    candidates: Sequence[Candidates],
    judgements: Judgements,
    ranker: CandidateRanker,
    *,
    pointwise: bool,
    only: Sequence[str] = tuple(CHECKS),
    min_grade: int = 1,
    seed: int = 0,
    before_check: Callable[[str], None] | None = None,
) -> RobustnessReport:
    """All checks in `only`, on the queries of `candidates`.

    ranker:     asked anew for every change. What it raises is a finding, except while the unchanged
                candidates are ranked.
    pointwise:  whether scores are those of the pair alone and may be compared between rankings.
    min_grade:  the lowest grade of a relevant passage.
    before_check: called with the name of each check.
    DataError: no query with two passages, or one query twice.
    """
    usable = [c for c in candidates if len(c.passages) > 1]
    notes = []
    if len(usable) < len(candidates):
        left = len(candidates) - len(usable)
        some = "1 query" if left == 1 else f"{left} queries"
        notes.append(f"{some} with fewer than two passages {'is' if left == 1 else 'are'} left out")
    if not usable:
        raise DataError("nothing to check: no query has two passages")
    if len({c.query.id for c in usable}) < len(usable):
        raise DataError("a query is there twice")
    subject = Subject.of(
        usable, judgements, ranker, pointwise=pointwise, min_grade=min_grade, seed=seed
    )
    if not subject.judged:
        notes.append("no query has a relevant passage: nDCG is not known")
    still = sum(
        subject.base[c.query.id].passage_ids == tuple(p.id for p in c.passages) for c in usable
    )
    if 2 * still > len(usable):
        notes.append(
            f"{still} of {len(usable)} rankings are the order that came: a ranker that moves "
            "nothing stands every attack"
        )
    lines: list[Line] = []
    for name in only:
        if before_check is not None:
            before_check(name)
        found = list(CHECKS[name](subject))
        if not found:
            notes.append(f"{name}: no query that it could be tried on")
        lines += found
    evaluation = subject.base_evaluation
    return RobustnessReport(
        pointwise=pointwise,
        queries=len(usable),
        passages=sum(len(c.passages) for c in usable),
        judged=len(subject.judged),
        top=subject.top,
        seed=seed,
        ndcg=None if evaluation is None else evaluation.means[NDCG],
        lines=tuple(lines),
        notes=tuple(notes),
    )
