"""Checks that change passages: attacks, near-duplicates, cuts, and what nobody would write."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from dear.evaluate.robustness.report import Line
from dear.evaluate.robustness.subject import Subject, asking, changed, mean, place
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
                score_change(r, _copy(ids[q]), subject.base[q], ids[q]) for q, r in rankings.items()
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


def score_change(a: Ranking, in_a: str, b: Ranking, in_b: str) -> float:
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
