"""The report's first paragraph, written from its numbers."""

from __future__ import annotations

from collections.abc import Sequence

from dear.evaluate.study import Entry
from dear.report.parts import Report, ReportPart
from dear.report.rows import ALPHA, headline, p_value, signed, verdict


def summary(report: Report) -> str:
    """Which run helps, by how much, how surely, for how many queries, and at what cost."""
    name = _chosen(report)
    if name is None:
        return _without_rerankers(report)
    found = [(p, e) for p in report.parts for e in p.rerankers if e.name == name]
    sentences = [
        _how_much(name, found),
        _how_surely(found),
        _for_whom(found),
        _at_what_cost(found),
        _refused(report),
    ]
    return " ".join(s for s in sentences if s)


def _chosen(report: Report) -> str | None:
    """The reranker on most collections; among those the one with the highest mean."""
    totals: dict[str, list[float]] = {}
    for part in report.parts:
        for entry in part.rerankers:
            value = entry.evaluation.means[part.measure]
            totals.setdefault(entry.name, []).append(value)
    if not totals:
        return None
    return max(totals, key=lambda n: (len(totals[n]), sum(totals[n]) / len(totals[n])))


def _how_much(name: str, found: Sequence[tuple[ReportPart, Entry]]) -> str:
    many = len({e.name for p, _ in found for e in p.rerankers}) > 1
    told = []
    for part, entry in found:
        first = entry.source.first_stage or ""
        after = entry.evaluation.means[part.measure]
        before = part.study.entry(first).evaluation.means[part.measure]
        pair = part.study.against_first_stage(entry)
        change = f"{before:.3f} to {after:.3f}"
        if pair is not None and len(found) == 1:
            low, high = pair.comparison.interval
            change += (
                f" ({signed(after - before, 3)}, 95 % interval {signed(low, 3)} to "
                f"{signed(high, 3)}, p {_p(pair.holm_randomisation)})"
            )
        told.append(f"{change} on {part.study.collection}")
    firsts = listed(list(dict.fromkeys(e.source.first_stage or "" for _, e in found)), "or")
    measures = listed(list(dict.fromkeys(p.measure for p, _ in found)), "or")
    best = "the best of the rerankers" if many else "the reranker"
    return f"{name}, {best} here, takes {measures} from {firsts}’s {listed(told)}."


def _how_surely(found: Sequence[tuple[ReportPart, Entry]]) -> str:
    if len(found) < 2:
        return ""
    said: dict[str, list[str]] = {}
    for part, entry in found:
        said.setdefault(verdict(part.study, entry)[0], []).append(part.study.collection)
    told = []
    if "better" in said:
        told.append(f"The gain is significant on {listed(said['better'])}")
    if "worse" in said:
        told.append(f"{'it' if told else 'It'} loses significantly on {listed(said['worse'])}")
    if "unsure" in said:
        told.append(
            f"{'on' if told else 'On'} {listed(said['unsure'])} the difference could be chance"
        )
    tail = f" (Holm-corrected p below {ALPHA:g})" if said.keys() & {"better", "worse"} else ""
    return f"{'; '.join(told)}{tail}." if told else ""


def _for_whom(found: Sequence[tuple[ReportPart, Entry]]) -> str:
    values = [d for part, entry in found for d in part.study.differences(entry).values()]
    if not values:
        return ""
    wins, losses = sum(v > 0 for v in values), sum(v < 0 for v in values)
    return (
        f"Of {len(values):,} queries {wins:,} ({wins / len(values):.0%}) get better and "
        f"{losses:,} ({losses / len(values):.0%}) get worse."
    )


def _at_what_cost(found: Sequence[tuple[ReportPart, Entry]]) -> str:
    costs = [part.cost(entry) for part, entry in found]
    seconds = [c.seconds for c in costs if c.seconds is not None]
    queries = [c.queries for c in costs if c.seconds is not None and c.queries]
    if not seconds or len(seconds) != len(queries):
        return ""
    return f"It took {_time(sum(seconds) / sum(queries))} a query, in the runs shown."


def _refused(report: Report) -> str:
    refused = len(headline(report).refusals)
    if not refused:
        return ""
    what = "One run was" if refused == 1 else f"{refused} runs were"
    return f"{what} not compared with the first stage: the table says why."


def _without_rerankers(report: Report) -> str:
    told = []
    for part in report.parts:
        best = max(part.study.entries, key=lambda e: e.evaluation.means[part.measure])
        told.append(
            f"{best.name} has the highest {part.measure} on {part.study.collection}, "
            f"{best.evaluation.means[part.measure]:.3f}"
        )
    return f"{'; '.join(told)}. Nothing here says what was reranked."


def listed(words: Sequence[str], last: str = "and") -> str:
    """`a`, `a and b`, `a, b and c`."""
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} {last} {words[-1]}"


def _p(value: float) -> str:
    text = p_value(value)
    return text if text.startswith("<") else f"= {text}"


def _time(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
