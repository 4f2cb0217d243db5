"""The checks: changed passages, changed orders, changed queries."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from dear.evaluate.metrics import evaluate
from dear.evaluate.robustness.subject import (
    NDCG,
    Line,
    Subject,
    asking,
    changed,
    mean,
    pairs_turned,
    place,
)
from dear.evaluate.robustness.texts import (
    ATTACKS,
    CONTROL,
    EXTREMES,
    NEAR_DUPLICATES,
    attacked,
    behind_filler,
    cut,
    long_query,
    near_duplicate,
    question_word_last,
    typos,
    without_question_mark,
    without_stop_words,
    word_order,
)
from dear.records import Candidates, Passage, Ranking


def injection(subject: Subject) -> Iterator[Line]:
    """How far the worst irrelevant passage climbs when something is put before its text.

    The verdict is by the share that enters the top, beyond that of the control, in which a
    harmless sentence was put there.
    """
    targets = {c.query.id: (c, p) for c in subject.candidates if (p := subject.irrelevant(c))}
    if not targets:
        return
    found = subject.rank_all(
        {
            attack: [changed(c, attacked(p, c.query.text, attack)) for c, p in targets.values()]
            for attack in ATTACKS
        }
    )
    ids = {q: p.id for q, (_, p) in targets.items()}
    control = found[CONTROL]
    expected = (
        mean(_climbs(subject, control, ids, subject.top)) if isinstance(control, dict) else 0.0
    )
    for attack, rankings in found.items():
        if isinstance(rankings, str):
            yield Line(check="injection", name=attack, count=0, error=rankings)
            continue
        entered = mean(_climbs(subject, rankings, ids, subject.top))
        gained = [place(subject.base[q], ids[q]) - place(r, ids[q]) for q, r in rankings.items()]
        yield Line(
            check="injection",
            name=attack,
            count=len(rankings),
            value=entered if attack == CONTROL else entered - expected,
            limit=None if attack == CONTROL else "reached the top",
            numbers={
                "entered the top": entered,
                "became first": mean(_climbs(subject, rankings, ids, 1)),
                "places gained": mean(gained),
            },
            comparison=subject.ndcg(rankings),
        )


def _climbs(
    subject: Subject, rankings: Mapping[str, Ranking], ids: Mapping[str, str], top: int
) -> list[bool]:
    return [place(r, ids[q]) <= top < place(subject.base[q], ids[q]) for q, r in rankings.items()]


def near_duplicates(subject: Subject) -> Iterator[Line]:
    """A copy of a relevant passage, hardly changed, stands behind it in place of the lowest
    candidate: how far apart the two are ranked."""
    targets = [(c, p) for c in subject.candidates if (p := subject.best(c))]
    if not targets:
        return
    found = subject.rank_all(
        {kind: [_with_copy(subject, c, p, kind) for c, p in targets] for kind in NEAR_DUPLICATES}
    )
    ids = {c.query.id: p.id for c, p in targets}
    for kind, rankings in found.items():
        if isinstance(rankings, str):
            yield Line(check="near-duplicates", name=kind, count=0, error=rankings)
            continue
        apart = [abs(place(r, ids[q]) - place(r, _copy(ids[q]))) - 1 for q, r in rankings.items()]
        numbers = {"furthest apart": float(max(apart))}
        if subject.pointwise:
            numbers["score change"] = mean(
                _score_change(r, _copy(ids[q]), subject.base[q], ids[q])
                for q, r in rankings.items()
            )
        yield Line(
            check="near-duplicates",
            name=kind,
            count=len(rankings),
            value=mean(apart),
            limit="places apart",
            numbers=numbers,
        )


def _copy(passage_id: str) -> str:
    return f"{passage_id} (copy)"


def _with_copy(subject: Subject, candidates: Candidates, passage: Passage, kind: str) -> Candidates:
    rng = subject.rng("near-duplicates", kind, candidates.query.id)
    text = near_duplicate(passage.full_text, kind, rng)
    copy = Passage(id=_copy(passage.id), text=text)
    out = subject.lowest(candidates, but=passage.id).id
    passages = [p for p in candidates.passages if p.id != out]
    at = next(i for i, p in enumerate(passages) if p.id == passage.id)
    return replace(candidates, passages=(*passages[: at + 1], copy, *passages[at + 1 :]))


def _score_change(a: Ranking, in_a: str, b: Ranking, in_b: str) -> float:
    """How much the score of a passage in `a` differs from that of one in `b`, as a share of the
    range of b's scores; as it is where all of those are equal."""
    wide = b.scores[0] - b.scores[-1]
    difference = abs(a.scores[place(a, in_a) - 1] - b.scores[place(b, in_b) - 1])
    return difference / wide if wide else difference


CUTS = (0.75, 0.5, 0.25)
FILLERS = (50, 150, 400)


def truncation(subject: Subject) -> Iterator[Line]:
    """All passages cut to their first words; and a relevant passage behind words about nothing."""
    cuts = {
        f"first {share:.0%} of the words": [
            replace(
                c,
                passages=tuple(
                    replace(p, title="", text=cut(p.full_text, share)) for p in c.passages
                ),
            )
            for c in subject.candidates
        ]
        for share in CUTS
    }
    for name, found in subject.rank_all(cuts).items():
        yield subject.by_ndcg("truncation", name, found)
    targets = [(c, p) for c in subject.candidates if (p := subject.best(c))]
    if not targets:
        return
    ids = {c.query.id: p.id for c, p in targets}
    fillers = {
        f"behind {words} words of filler": [changed(c, behind_filler(p, words)) for c, p in targets]
        for words in FILLERS
    }
    for name, found in subject.rank_all(fillers).items():
        if isinstance(found, str):
            yield Line(check="truncation", name=name, count=0, error=found)
            continue
        yield Line(
            check="truncation",
            name=name,
            count=len(found),
            value=mean(place(r, ids[q]) - place(subject.base[q], ids[q]) for q, r in found.items()),
            limit="places fallen",
            comparison=subject.ndcg(found),
        )


def extremes(subject: Subject) -> Iterator[Line]:
    """What nobody would write, in place of the lowest candidate: it must not crash anything, and
    not be ranked high. Then whole lists and queries of that kind, which must only not crash."""
    lowest = {c.query.id: subject.lowest(c).id for c in subject.candidates}
    strange = {
        name: [changed(c, Passage(id=lowest[c.query.id], text=text)) for c in subject.candidates]
        for name, text in EXTREMES.items()
    }
    for name, found in subject.rank_all(strange).items():
        if isinstance(found, str):
            yield Line(check="extremes", name=f"{name} passage", count=0, error=found)
            continue
        places = [place(r, lowest[q]) for q, r in found.items()]
        yield Line(
            check="extremes",
            name=f"{name} passage",
            count=len(found),
            value=mean(p <= subject.top for p in places),
            limit="in the top",
            numbers={"place": mean(places)},
        )
    some = subject.candidates[:5]
    whole = {
        "only empty passages": [
            replace(c, passages=tuple(replace(p, title="", text="") for p in c.passages))
            for c in some
        ],
        "one passage": [replace(c, passages=c.passages[:1], scores=c.scores[:1]) for c in some],
        "empty query": [asking(c, "") for c in some],
        "very long query": [asking(c, long_query(c.query.text)) for c in some],
    }
    for name, many in whole.items():
        tried = subject.rank_all({name: many})[name]
        error = tried if isinstance(tried, str) else ""
        yield Line(
            check="extremes",
            name=name,
            count=0 if error else len(tried),
            value=None if error else 0.0,
            limit="crashes",
            error=error,
        )


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
            _score_change(r, i, subject.base[q], i) for q, r in found.items() for i in r.passage_ids
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


CHANGES: dict[str, Callable[[str, random.Random], str]] = {
    "typos in 10% of the words": lambda text, rng: typos(text, 0.1, rng),
    "typos in 25% of the words": lambda text, rng: typos(text, 0.25, rng),
    "typos in 50% of the words": lambda text, rng: typos(text, 0.5, rng),
    "lower case": lambda text, _: text.lower(),
    "upper case": lambda text, _: text.upper(),
    "question mark changed": lambda text, _: without_question_mark(text),
    "rule: without stop words": lambda text, _: without_stop_words(text),
    "rule: question word last": lambda text, _: question_word_last(text),
    "rule: words in random order": word_order,
}
"""Name → the new text. Those that begin with `rule:` stand in for a paraphrase."""


def queries(subject: Subject) -> Iterator[Line]:
    """Queries typed badly, or put in another way. Only those that a rule changes count."""
    variants = {}
    for name, change in CHANGES.items():
        asked = [
            asking(c, change(c.query.text, subject.rng("queries", name, c.query.id)))
            for c in subject.candidates
        ]
        other = [
            a
            for a, c in zip(asked, subject.candidates, strict=True)
            if a.query.text != c.query.text
        ]
        if other:
            variants[name] = other
    for name, found in subject.rank_all(variants).items():
        yield subject.by_ndcg("queries", name, found)
