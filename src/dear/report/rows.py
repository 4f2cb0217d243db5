"""The tables of a report as values; HTML, Markdown and LaTeX only write them down."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from dear.evaluate.compare import PairwiseComparison
from dear.evaluate.published import PublishedRow
from dear.evaluate.study import Entry, Study
from dear.report.parts import Report, ReportPart

ALPHA = 0.05
"""A difference is called significant where its Holm-corrected randomisation p is below."""

Verdict = Literal["first", "better", "worse", "unsure", "refused", "alone"]
"""Of an entry against its first stage. alone: there is nothing to compare it with."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One system on one collection. best: the highest of the column, as printed."""

    value: float
    verdict: Verdict
    best: bool = False
    reason: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class _ReportRow:
    """One system. cells: None where it has no run. mean: where it has one on every collection."""

    name: str
    cells: tuple[Cell | None, ...]
    mean: float | None = None
    mean_best: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Headline:
    """Systems × collections, and below them what others published (values without verdicts).

    columns: (collection, measure).  published: system, what must stand beside it (candidates,
    source, caveats), a value a column or None.
    """

    columns: tuple[tuple[str, str], ...]
    rows: tuple[_ReportRow, ...]
    published: tuple[tuple[str, str, tuple[float | None, ...]], ...]

    @property
    def refusals(self) -> tuple[str, ...]:
        """Why some comparisons were not made, each once: `name on collection: reason`."""
        return tuple(
            f"{row.name} on {collection}: {cell.reason}"
            for row in self.rows
            for (collection, _), cell in zip(self.columns, row.cells, strict=True)
            if cell is not None and cell.verdict == "refused"
        )


def headline(report: Report) -> Headline:
    """Systems in the order in which the collections first name them."""
    names = list(dict.fromkeys(e.name for part in report.parts for e in part.study.entries))
    best = [max(round(_value(e, p), 4) for e in p.study.entries) for p in report.parts]
    rows = [
        _ReportRow(name=name, cells=tuple(map(_cell, report.parts, [name] * len(best), best)))
        for name in names
    ]
    means = {
        row.name: sum(cell.value for cell in row.cells if cell) / len(row.cells)
        for row in rows
        if len(row.cells) > 1 and all(row.cells)
    }
    top = max((round(mean, 4) for mean in means.values()), default=None)
    return Headline(
        columns=tuple((p.study.collection, p.measure) for p in report.parts),
        rows=tuple(
            _ReportRow(
                name=row.name,
                cells=row.cells,
                mean=means.get(row.name),
                mean_best=row.name in means and round(means[row.name], 4) == top,
            )
            for row in rows
        ),
        published=tuple(_published(report.parts)),
    )


def verdict(study: Study, entry: Entry) -> tuple[Verdict, str]:
    """What the comparison with the first stage says, and the reason where there is none."""
    first = entry.source.first_stage
    if first is None:
        reranked = any(e.source.first_stage == entry.name for e in study.entries)
        return ("first" if reranked else "alone"), ""
    for refusal in study.refusals:
        if (refusal.a, refusal.b) in ((entry.name, first), (first, entry.name)):
            return "refused", f"not compared with {first}: {refusal.reason}"
    pair = study.against_first_stage(entry)
    if pair is None:
        return "alone", ""
    if pair.holm_randomisation >= ALPHA:
        return "unsure", ""
    return ("better" if pair.comparison.difference > 0 else "worse"), ""


def ordered_pairs(study: Study) -> list[PairwiseComparison]:
    """Those against a first stage, then the others."""
    firsts = {(e.name, e.source.first_stage) for e in study.entries}
    return sorted(study.comparisons, key=lambda p: (p.a, p.b) not in firsts)


def lead(part: ReportPart) -> Entry | None:
    """The reranker with the highest mean; None where nothing was reranked."""
    return max(part.rerankers, key=lambda e: _value(e, part), default=None)


def p_value(value: float) -> str:
    return "<0.0001" if value < 0.0001 else f"{value:.4f}"


def signed(value: float, places: int = 4) -> str:
    """With a real minus; zero has no sign."""
    text = f"{value:+.{places}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")


def _value(entry: Entry, part: ReportPart) -> float:
    return entry.evaluation.means[part.measure]


def _cell(part: ReportPart, name: str, best: float) -> Cell | None:
    for entry in part.study.entries:
        if entry.name == name:
            found, reason = verdict(part.study, entry)
            value = _value(entry, part)
            return Cell(value=value, verdict=found, best=round(value, 4) == best, reason=reason)
    return None


def _published(
    parts: Sequence[ReportPart],
) -> Iterator[tuple[str, str, tuple[float | None, ...]]]:
    """A row for each system over the same candidates from the same source."""
    found: dict[tuple[object, ...], list[PublishedRow | None]] = {}
    for place, part in enumerate(parts):
        for row in part.published:
            if row.measure == part.measure and row.collection == part.study.collection:
                key = (row.system, row.first_stage, row.depth, row.source)
                found.setdefault(key, [None] * len(parts))[place] = row
    for rows in found.values():
        known = [row for row in rows if row is not None]
        over = known[0].first_stage and f"over {known[0].first_stage}"
        if over and known[0].depth is not None:
            over += f" top-{known[0].depth}"
        caveats = dict.fromkeys(f"{r.collection}: {r.caveat}" for r in known if r.caveat)
        beside = "; ".join(text for text in (over, known[0].source, *caveats) if text)
        yield known[0].system, beside, tuple(None if row is None else row.value for row in rows)
