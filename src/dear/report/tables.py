"""The report's tables as HTML."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from dear.evaluate.compare import PairwiseComparison
from dear.evaluate.study import Entry
from dear.report.markup import Html, join, scrolling, table, tag
from dear.report.parts import Cost, Report, ReportPart
from dear.report.rows import (
    ALPHA,
    Cell,
    Headline,
    Verdict,
    headline,
    ordered_pairs,
    p_value,
    signed,
)

MARKS: dict[Verdict, tuple[str, str]] = {
    "better": ("▲", "significantly better than its first stage"),
    "worse": ("▼", "significantly worse than its first stage"),
    "unsure": ("≈", "no significant difference to its first stage"),
    "refused": ("⊘", "not compared: other candidates, or no query in common"),
    "first": ("", "first stage"),
    "alone": ("", ""),
}


def headline_table(report: Report) -> Html:
    """Systems × collections, what others published below, and what the marks say."""
    found = headline(report)
    means = any(row.mean is not None for row in found.rows)
    measures = {measure for _, measure in found.columns}
    one = f"{next(iter(measures))} of every run" if len(measures) == 1 else "Every run"
    caption = f"{one}{', by collection' if len(found.columns) > 1 else ''}"
    head = tag(
        "tr",
        tag("th", "run", scope="col"),
        *(
            tag("th", c if len(measures) == 1 else f"{c} ({m})", scope="col")
            for c, m in found.columns
        ),
        *((tag("th", "mean", scope="col"),) if means else ()),
    )
    rows = [
        tag(
            "tr",
            tag("th", row.name, scope="row"),
            *map(_cell, row.cells),
            *((_number(row.mean, row.mean_best),) if means else ()),
        )
        for row in found.rows
    ]
    inner = tag(
        "table",
        tag("caption", caption),
        tag("thead", head),
        tag("tbody", *rows),
        *_published(found, means),
        class_="headline",
    )
    return join(scrolling(inner, caption), _legend(found))


def _cell(cell: Cell | None) -> Html:
    if cell is None:
        return tag("td", tag("span", "–", title="no run"))
    mark, meaning = MARKS[cell.verdict]
    value = f"{cell.value:.4f}"
    shown = tag("b", value) if cell.best else value
    said = tag("span", mark, class_=f"mark {cell.verdict}", role="img", aria_label=meaning)
    return tag("td", shown, *((" ", said) if mark else ()), title=cell.reason or meaning or None)


def _number(value: float | None, best: bool = False) -> Html:
    text = "–" if value is None else f"{value:.4f}"
    return tag("td", tag("b", text) if best else text)


def _published(found: Headline, means: bool) -> Iterator[Html]:
    if not found.published:
        return
    width = str(len(found.columns) + 1 + means)
    heading = "Published by others, not measured here"
    rows = [
        tag(
            "tr",
            tag("th", system, tag("sup", str(_sources(found)[beside])), scope="row"),
            *map(_number, values),
            *((tag("td", ""),) if means else ()),
        )
        for system, beside, values in found.published
    ]
    head = tag("tr", tag("th", heading, colspan=width, scope="rowgroup"))
    yield tag("tbody", head, *rows, class_="published")


def _sources(found: Headline) -> dict[str, int]:
    """What stands beside published rows → its number below the table."""
    return {text: i for i, text in enumerate(dict.fromkeys(b for _, b, _ in found.published), 1)}


def _legend(found: Headline) -> Html:
    used = {cell.verdict for row in found.rows for cell in row.cells if cell}
    marks = [
        f"{MARKS[v][0]} {MARKS[v][1]}"
        for v in ("better", "worse", "unsure", "refused")
        if v in used
    ]
    said = tag(
        "p",
        "; ".join([*marks, "bold: the highest of its column"]),
        f". Significant: p of the paired randomisation test below {ALPHA:g}, corrected over all "
        "pairs of a collection (Holm).",
        class_="small",
    )
    reasons = [tag("li", f"⊘ {line}") for line in found.refusals]
    sources = [tag("li", text) for text in _sources(found)]
    return join(
        said,
        *((tag("ul", *reasons, class_="small"),) if reasons else ()),
        *((tag("ol", *sources, class_="small"),) if sources else ()),
    )


def measures_table(part: ReportPart) -> Html:
    """Every measure of every run."""
    study = part.study
    best = {m: max(round(e.evaluation.means[m], 4) for e in study.entries) for m in study.measures}
    lacking = any(e.evaluation.missing for e in study.entries)
    rows = []
    for entry in study.entries:
        cells = [
            tag("b", text) if round(value, 4) == best[m] else text
            for m in study.measures
            for value in (entry.evaluation.means[m],)
            for text in (f"{value:.4f}",)
        ]
        missing = [str(len(entry.evaluation.missing))] if lacking else []
        rows.append([_named(entry), *cells, *missing])
    headers = ["run", *study.measures, *(["missing"] if lacking else [])]
    return table(f"Means over {len(study.query_ids):,} judged queries", headers, rows)


def _named(entry: Entry) -> str:
    if not entry.is_first_stage:
        return entry.name
    return join(entry.name, " ", tag("span", "first stage", class_="source"))


def comparison_table(part: ReportPart) -> Html:
    """The pairs with their tests; refused ones with the reason. Empty where there is neither."""
    study = part.study
    pairs = ordered_pairs(study)
    firsts = {(e.name, e.source.first_stage) for e in study.entries}
    against = [p for p in pairs if (p.a, p.b) in firsts]
    others = [p for p in pairs if (p.a, p.b) not in firsts]
    found = []
    if against:
        found.append(_pairs(f"Against the first stage, by {part.measure}", against))
    if others:
        inner = _pairs(f"The other pairs, by {part.measure}", others)
        found.append(tag("details", tag("summary", f"The other {len(others)} pairs"), inner))
    if study.refusals:
        lines = [tag("li", f"{r.a} − {r.b}: {r.reason}") for r in study.refusals]
        found.append(tag("p", "⊘ Not compared, because the candidates are not the same:"))
        found.append(tag("ul", *lines))
    return join(*found)


def _pairs(caption: str, pairs: list[PairwiseComparison]) -> Html:
    headers = [
        *("pair", "difference", "95 % interval", "p randomisation", "p t test", "effect size"),
        "wins / ties / losses",
    ]
    rows = [
        [
            f"{pair.a} − {pair.b}",
            signed(c.difference),
            f"{signed(c.interval[0])} to {signed(c.interval[1])}",
            p_value(pair.holm_randomisation),
            p_value(pair.holm_t),
            "–" if c.effect is None else signed(c.effect, 2),
            f"{c.wins} / {c.ties} / {c.losses}",
        ]
        for pair in pairs
        for c in (pair.comparison,)
    ]
    return table(caption, headers, rows)


_COSTS: tuple[tuple[str, Callable[[Cost], float | None], str], ...] = (
    ("ms a query", lambda c: c.ms_per_query, "{:,.1f}"),
    ("pairs a second", lambda c: c.pairs_per_second, "{:,.1f}"),
    ("seconds", lambda c: c.seconds, "{:,.1f}"),
    ("pairs", lambda c: c.pairs, "{:,.0f}"),
    ("windows", lambda c: c.windows, "{:,.0f}"),
    ("calls", lambda c: c.calls, "{:,.0f}"),
    ("tokens", lambda c: c.tokens, "{:,.0f}"),
    ("parameters", lambda c: c.parameters, "{:,.0f}"),
    ("peak MiB", lambda c: c.memory_mib, "{:,.0f}"),
    ("joules", lambda c: c.joules, "{:,.0f}"),
    ("dollars", lambda c: c.dollars, "{:,.4f}"),
)


def cost_table(part: ReportPart, numbers: dict[str, int]) -> Html:
    """What the runs took, where it is known. numbers: entry → its number in the plot."""
    known = [(e, c) for e in part.study.entries for c in (part.cost(e),) if c.known]
    columns = [one for one in _COSTS if any(one[1](c) is not None for _, c in known)]
    rows = [
        [
            entry.name,
            str(numbers.get(entry.name, "–")),
            f"{entry.evaluation.means[part.measure]:.4f}",
            *(_said(get(cost), form) for _, get, form in columns),
        ]
        for entry, cost in known
    ]
    headers = ["run", "in the plot", part.measure, *(name for name, *_ in columns)]
    return table("What each run took", headers, rows)


def _said(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)


def has_cost(part: ReportPart) -> bool:
    return any(part.cost(e).known for e in part.study.entries)
