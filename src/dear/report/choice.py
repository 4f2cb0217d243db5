"""Which queries a report shows: the most hurt, the most helped, and some of the others."""

from __future__ import annotations

from itertools import zip_longest

from dear.records import every_nth
from dear.report.parts import ReportPart

EXTREME_SHARE = 0.8
"""Of the queries shown, at most; the rest is an even sample."""


def chosen_queries(part: ReportPart, limit: int) -> list[str]:
    """At most `limit` judged queries, in the order of the judgements.

    Every reranker takes its turn: its most hurt query, its most helped, the next most hurt, …
    """
    ids = part.study.query_ids
    if len(ids) <= limit:
        return list(ids)
    kept: dict[str, None] = {}
    turns = [turn for entry in part.rerankers for turn in _turns(part.study.differences(entry))]
    room = round(limit * EXTREME_SHARE)
    for round_ in zip_longest(*turns):
        for query_id in round_:
            if query_id is not None and len(kept) < room:
                kept[query_id] = None
    others = [q for q in ids if q not in kept]
    sample = every_nth(others, limit - len(kept)) if len(kept) < limit else []
    shown = {*kept, *sample}
    return [q for q in ids if q in shown]


def _turns(differences: dict[str, float]) -> list[list[str]]:
    """The queries that lose, most hurt first, and those that gain, most helped first."""
    lost = [q for q, d in differences.items() if d < 0]
    gained = [q for q, d in reversed(differences.items()) if d > 0]
    return [lost, gained]
