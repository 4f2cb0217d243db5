"""What a report says, as values: the headline, sentences, queries to show, files of runs.

HTML, Markdown and LaTeX only write these down.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Literal

from dear.digests import file_digest
from dear.errors import DataError
from dear.evaluate.compare import PairwiseComparison
from dear.evaluate.published import PublishedRow
from dear.evaluate.study import Entry, RunSource, Study
from dear.records import every_nth
from dear.report.parts import Report, ReportPart

ALPHA = 0.05
"""A difference is called significant where its Holm-corrected randomisation p is below."""

Verdict = Literal["first", "better", "worse", "unsure", "refused", "alone"]
"""Of an entry against its first stage. alone: there is nothing to compare it with."""

_EXTREME_SHARE = 0.8
"""Of the queries shown, at most; the rest is an even sample."""


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

    columns: (collection, measure).  published: system, its conditions (candidates, source,
    caveats), a value a column or None.
    """

    columns: tuple[tuple[str, str], ...]
    rows: tuple[_ReportRow, ...]
    published: tuple[tuple[str, str, tuple[float | None, ...]], ...]

    @property
    def has_means(self) -> bool:
        return any(row.mean is not None for row in self.rows)

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
    best = [best_means(part.study)[part.measure] for part in report.parts]
    rows = {name: tuple(map(_cell, report.parts, [name] * len(best), best)) for name in names}
    means = {
        name: sum(cell.value for cell in cells if cell) / len(cells)
        for name, cells in rows.items()
        if len(cells) > 1 and all(cells)
    }
    top = max((round(mean, 4) for mean in means.values()), default=None)
    return Headline(
        columns=tuple((p.study.collection, p.measure) for p in report.parts),
        rows=tuple(
            _ReportRow(
                name=name,
                cells=cells,
                mean=means.get(name),
                mean_best=name in means and round(means[name], 4) == top,
            )
            for name, cells in rows.items()
        ),
        published=tuple(_published(report.parts)),
    )


def _cell(part: ReportPart, name: str, best: float) -> Cell | None:
    for entry in part.study.entries:
        if entry.name == name:
            found, reason = verdict(part.study, entry)
            value = _value(entry, part)
            return Cell(value=value, verdict=found, best=round(value, 4) == best, reason=reason)
    return None


def _value(entry: Entry, part: ReportPart) -> float:
    return entry.evaluation.means[part.measure]


def _published(
    parts: Sequence[ReportPart],
) -> Iterator[tuple[str, str, tuple[float | None, ...]]]:
    """A row for each system over the same candidates from the same source."""
    found: dict[tuple[object, ...], list[PublishedRow | None]] = {}
    for column, part in enumerate(parts):
        for row in part.published:
            if row.measure == part.measure and row.collection == part.study.collection:
                key = (row.system, row.first_stage, row.depth, row.source)
                found.setdefault(key, [None] * len(parts))[column] = row
    for rows in found.values():
        known = [row for row in rows if row is not None]
        over = known[0].first_stage and f"over {known[0].first_stage}"
        if over and known[0].depth is not None:
            over += f" top-{known[0].depth}"
        caveats = dict.fromkeys(f"{r.collection}: {r.caveat}" for r in known if r.caveat)
        conditions = "; ".join(text for text in (over, known[0].source, *caveats) if text)
        yield known[0].system, conditions, tuple(None if row is None else row.value for row in rows)


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


def best_means(study: Study) -> dict[str, float]:
    """Measure → the highest mean, as printed."""
    return {m: max(round(e.evaluation.means[m], 4) for e in study.entries) for m in study.measures}


def pairs_by_kind(study: Study) -> tuple[list[PairwiseComparison], list[PairwiseComparison]]:
    """The pairs against a first stage, and the others."""
    firsts = {(e.name, e.source.first_stage) for e in study.entries}
    against = [p for p in study.comparisons if (p.a, p.b) in firsts]
    return against, [p for p in study.comparisons if (p.a, p.b) not in firsts]


def pair_cells(
    pair: PairwiseComparison, *, interval: str = "{} to {}", none: str = "–"
) -> list[str]:
    """Pair, difference, interval, both p, effect size, wins/ties/losses."""
    c = pair.comparison
    return [
        f"{pair.a} − {pair.b}",
        signed(c.difference),
        interval.format(*map(signed, c.interval)),
        p_value(pair.holm_randomisation),
        p_value(pair.holm_t),
        none if c.effect is None else signed(c.effect, 2),
        f"{c.wins}/{c.ties}/{c.losses}",
    ]


def p_value(value: float) -> str:
    return "<0.0001" if value < 0.0001 else f"{value:.4f}"


def signed(value: float, places: int = 4) -> str:
    """With a real minus; zero has no sign."""
    text = f"{value:+.{places}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")


def chosen_queries(part: ReportPart, limit: int) -> list[str]:
    """At most `limit` judged queries, in the order of the judgements.

    Every reranker takes its turn: its most hurt query, its most helped, the next most hurt, …
    """
    ids = part.study.query_ids
    if len(ids) <= limit:
        return list(ids)
    chosen: dict[str, None] = {}
    turns = [t for e in part.rerankers for t in _extremes(part.study.differences(e))]
    room = round(limit * _EXTREME_SHARE)
    for turn in zip_longest(*turns):
        for query_id in turn:
            if query_id is not None and len(chosen) < room:
                chosen[query_id] = None
    others = [q for q in ids if q not in chosen]
    sample = every_nth(others, limit - len(chosen)) if len(chosen) < limit else []
    shown = {*chosen, *sample}
    return [q for q in ids if q in shown]


def _extremes(differences: dict[str, float]) -> list[list[str]]:
    """The queries that lose, most hurt first, and those that gain, most helped first."""
    lost = [q for q, d in differences.items() if d < 0]
    gained = [q for q, d in reversed(differences.items()) if d > 0]
    return [lost, gained]


@dataclass(frozen=True, kw_only=True, slots=True)
class _RunFile:
    """A run's file. sha256: of its bytes; empty where it is gone."""

    collection: str
    name: str
    path: str
    sha256: str
    made_by: str


def run_files(report: Report) -> Iterator[_RunFile]:
    """Those of every run that came from a file."""
    for part in report.parts:
        for entry in part.study.entries:
            source = entry.source
            if source.path is not None:
                yield _RunFile(
                    collection=part.study.collection,
                    name=entry.name,
                    path=_shown_path(source.path),
                    sha256=_sha256(source.path),
                    made_by=_made_by(source),
                )


def input_digests(report: Report) -> Iterator[str]:
    """A line for each collection: digests of its judgements and texts."""
    for part in report.parts:
        if part.inputs:
            digests = ", ".join(f"{kind} {digest}" for kind, digest in part.inputs.items())
            yield f"{part.study.collection}: {digests}"


def _shown_path(path: Path) -> str:
    """As given; an absolute one without the folders that are this machine's own."""
    return str(path) if not path.is_absolute() else str(Path("…", *path.parts[-2:]))


def _made_by(source: RunSource) -> str:
    """The model's name; the path of `biencoder:/some/path` is shortened like any other."""
    model = str((source.origin or {}).get("model") or "")
    kind, colon, path = model.partition(":")
    if colon and Path(path).is_absolute():
        return f"{kind}:{_shown_path(Path(path))}"
    return _shown_path(Path(model)) if Path(model).is_absolute() else model


def _sha256(path: Path) -> str:
    try:
        return file_digest(path)
    except DataError:
        return ""


def summary(report: Report) -> str:
    """The first paragraph: which run helps, by how much, how surely, for whom, at what cost."""
    name = _best_reranker(report)
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


def _best_reranker(report: Report) -> str | None:
    """The reranker on most collections; among those the one with the highest mean."""
    totals: dict[str, list[float]] = {}
    for part in report.parts:
        for entry in part.rerankers:
            totals.setdefault(entry.name, []).append(_value(entry, part))
    if not totals:
        return None
    return max(totals, key=lambda n: (len(totals[n]), sum(totals[n]) / len(totals[n])))


def _how_much(name: str, found: Sequence[tuple[ReportPart, Entry]]) -> str:
    many = len({e.name for p, _ in found for e in p.rerankers}) > 1
    texts = []
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
                f"{signed(high, 3)}, not corrected; corrected p {_p(pair.holm_randomisation)})"
            )
        texts.append(f"{change} on {part.study.collection}")
    firsts = listed(list(dict.fromkeys(e.source.first_stage or "" for _, e in found)), "or")
    measures = listed(list(dict.fromkeys(p.measure for p, _ in found)), "or")
    best = "the best of the rerankers" if many else "the reranker"
    return f"{name}, {best} here, takes {measures} from {firsts}’s {listed(texts)}."


def _how_surely(found: Sequence[tuple[ReportPart, Entry]]) -> str:
    if len(found) < 2:
        return ""
    said: dict[str, list[str]] = {}
    for part, entry in found:
        said.setdefault(verdict(part.study, entry)[0], []).append(part.study.collection)
    texts = []
    if "better" in said:
        texts.append(f"The gain is significant on {listed(said['better'])}")
    if "worse" in said:
        texts.append(f"{'it' if texts else 'It'} loses significantly on {listed(said['worse'])}")
    if "unsure" in said:
        texts.append(
            f"{'on' if texts else 'On'} {listed(said['unsure'])} the difference could be chance"
        )
    tail = f" (Holm-corrected p below {ALPHA:g})" if said.keys() & {"better", "worse"} else ""
    return f"{'; '.join(texts)}{tail}." if texts else ""


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
    texts = []
    for part in report.parts:
        best = max(part.study.entries, key=lambda e: e.evaluation.means[part.measure])
        texts.append(
            f"{best.name} has the highest {part.measure} on {part.study.collection}, "
            f"{best.evaluation.means[part.measure]:.3f}"
        )
    return f"{'; '.join(texts)}. Nothing here says what was reranked."


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
