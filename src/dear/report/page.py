"""One HTML file that needs nothing else: no network, and no script to be read."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from typing import Any, TypeVar

import jinja2
from markupsafe import Markup

from dear.evaluate.compare import PairwiseComparison
from dear.evaluate.study import Entry
from dear.records import Ranking
from dear.report.charts import printable
from dear.report.figures import collection_figures, cost_figure, training_figures
from dear.report.parts import Cost, Report, ReportPart
from dear.report.rows import (
    ALPHA,
    Headline,
    Verdict,
    best_means,
    chosen_queries,
    headline,
    input_digests,
    pair_cells,
    pairs_by_kind,
    run_files,
    signed,
    summary,
)

T = TypeVar("T")

MAX_BYTES = 3_000_000
"""The largest page; passages are cut shorter until it fits."""

# characters of a passage, queries as a share of those wanted: the first that fits is taken
_SIZES = (
    *((700, 1.0), (400, 1.0), (280, 1.0), (280, 0.75), (280, 0.5), (280, 0.35), (200, 0.25)),
    *((200, 0.15), (100, 0.1), (100, 0.05), (100, 0.02), (0, 0.0)),
)
_SAMPLED = 5
"""Queries of each collection from whose length that of all is estimated."""

_DEPTH = 10
"""Ranks that are shown."""

_LABEL, _THOUGHT = 56, 1500
"""Characters of a passage's name and of a thought."""

_MARKS: dict[Verdict, tuple[str, str]] = {
    "better": ("▲", "significantly better than its first stage"),
    "worse": ("▼", "significantly worse than its first stage"),
    "unsure": ("≈", "no significant difference to its first stage"),
    "refused": ("⊘", "not compared: other candidates, or no query in common"),
    "first": ("", "first stage"),
    "alone": ("", ""),
}

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


def page(report: Report, *, max_queries: int) -> str:
    """The report, at most MAX_BYTES long as far as showing less of texts can do that.

    max_queries: shown for each collection; 0 shows none.
    """
    values = _values(report)
    names = [f"c{i}" for i in range(len(report.parts))]
    template = _TEMPLATES.get_template("page.html.jinja")
    room = MAX_BYTES - len(template.render(values, queries=[""] * len(names)).encode())
    for text_chars, share in _SIZES:
        limit = round(max_queries * share)
        few = min(limit, _SAMPLED)
        sampled = sum(len(_queries(p, "c", few, text_chars).encode()) for p in report.parts)
        # rendering what will not fit takes long; the estimate may be a third too high
        if few and sampled * limit / few > 1.5 * room:
            continue
        lists = [
            _queries(p, n, limit, text_chars) for p, n in zip(report.parts, names, strict=True)
        ]
        text = template.render(values, queries=lists)
        if len(text.encode()) <= MAX_BYTES:
            break
    return text


def _values(report: Report) -> dict[str, Any]:
    """Everything that page.html.jinja shows but the queries."""
    script = _resource("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    found = headline(report)
    measures = list(dict.fromkeys(measure for _, measure in found.columns))
    one = f"{measures[0]} of every run" if len(measures) == 1 else "Every run"
    return {
        "report": report,
        "style": Markup(_resource("page.css")),
        "script": Markup(script),
        # no network, and no script but ours, whatever a passage holds
        "policy": (
            f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
            "base-uri 'none'; form-action 'none'"
        ),
        "summary": summary(report),
        "headline": found,
        "caption": f"{one}{', by collection' if len(found.columns) > 1 else ''}",
        "column_names": [c if len(measures) == 1 else f"{c} ({m})" for c, m in found.columns],
        "marks": _MARKS,
        "legend": _legend(found),
        "alpha": f"{ALPHA:g}",
        "reasons": [f"⊘ {line}" for line in found.refusals],
        "sources": list(dict.fromkeys(conditions for _, conditions, _ in found.published)),
        "sections": [_section(part, f"c{i}") for i, part in enumerate(report.parts)],
        "training": training_figures(report.curves),
        "versions": ", ".join(f"{name} {number}" for name, number in report.versions.items()),
        "digests": list(input_digests(report)),
        "files": [
            (f.collection, f.name, f.path, Markup("<code>{}</code>").format(f.sha256), f.made_by)
            for f in run_files(report)
        ],
    }


def _legend(found: Headline) -> str:
    used = {cell.verdict for row in found.rows for cell in row.cells if cell}
    marks = [" ".join(_MARKS[v]) for v in _MARKS if v in used and _MARKS[v][0]]
    return "; ".join([*marks, "bold: the highest of its column"])


def _section(part: ReportPart, name: str) -> dict[str, Any]:
    """One collection. name: starts the ids."""
    against, others = pairs_by_kind(part.study)
    plot, numbers = cost_figure(part, name)
    return {
        "name": name,
        "part": part,
        "best": best_means(part.study),
        "missing": any(e.evaluation.missing for e in part.study.entries),
        "against": _pair_rows(against),
        "others": _pair_rows(others),
        "plot": plot,
        **_cost_table(part, numbers),
        "figures": collection_figures(part, name),
    }


def _pair_rows(pairs: Sequence[PairwiseComparison]) -> list[list[str]]:
    rows = [pair_cells(pair) for pair in pairs]
    return [[*row, counts.replace("/", " / ")] for *row, counts in rows]


def _cost_table(part: ReportPart, numbers: Mapping[str, int]) -> dict[str, Any]:
    """What the runs took, where it is known. numbers: entry → its number in the plot."""
    known = [(e, c) for e in part.study.entries for c in (part.cost(e),) if c.known]
    columns = [one for one in _COSTS if any(one[1](c) is not None for _, c in known)]
    rows = [
        [
            entry.name,
            str(numbers.get(entry.name, "–")),
            f"{entry.evaluation.means[part.measure]:.4f}",
            *(
                "–" if value is None else form.format(value)
                for _, get, form in columns
                for value in (get(cost),)
            ),
        ]
        for entry, cost in known
    ]
    headers = ["run", "in the plot", part.measure, *(name for name, *_ in columns)]
    return {"costs": rows, "cost_headers": headers}


def _queries(part: ReportPart, name: str, limit: int, text_chars: int) -> str:
    """Queries to browse: their rankings side by side, what moved, what is relevant, and why.

    name: starts the ids.  text_chars: characters of a passage, at most.
    """
    chosen = chosen_queries(part, limit)
    if not chosen:
        return ""
    differences = [part.study.differences(entry) for entry in part.rerankers]
    if differences:  # most hurt first
        chosen.sort(key=lambda q: (sum(d[q] for d in differences), q))
    total = len(part.study.query_ids)
    which = (
        f"All {total} queries"
        if len(chosen) == total
        else f"{len(chosen)} of {total:,} queries: the most hurt, the most helped, and an even "
        "sample of the others"
    )
    return Markup(
        _TEMPLATES.get_template("queries.html.jinja").render(
            name=name,
            which=which,
            runs=list(enumerate(e.name for e in part.rerankers)),
            queries=[
                _query(part, q, f"{name}q{number}", [d[q] for d in differences], text_chars)
                for number, q in enumerate(chosen)
            ],
        )
    )


def _query(
    part: ReportPart, query_id: str, name: str, differences: Sequence[float], text_chars: int
) -> dict[str, Any]:
    study = part.study
    text = part.queries.get(query_id) or query_id
    grades = study.judgements[query_id]
    shown = [e.source.run[query_id] for e in study.entries if query_id in e.source.run]
    ids = list(dict.fromkeys(p for ranking in shown for p in ranking.passage_ids[:_DEPTH]))
    passages = {p: _passage(part, p, f"{name}p{i}", grades.get(p)) for i, p in enumerate(ids)}
    for passage in passages.values():
        passage["text"] = _cut(passage["text"], text_chars)
    return {
        "id": query_id,
        "text": text,
        "search": f"{query_id} {text}".lower(),
        "differences": " ".join(f"{d:.6g}" for d in differences),
        "chips": [
            (
                f"{_sided(d, '▲', '▼', '=')} {e.name} {signed(d, 3)}",
                _sided(d, "gain", "loss", "same"),
            )
            for e, d in zip(part.rerankers, differences, strict=True)
            for arrow, side in [_sided(d, ("▲", "gain"), ("▼", "loss"), ("=", "same"))]
        ],
        "relevant": sum(g >= study.min_grade for g in grades.values()),
        "lists": [_list(part, e, query_id, passages) for e in study.entries],
        "thoughts": [
            (e.name, [_cut(text, _THOUGHT) for text in texts])
            for e in study.entries
            if (texts := part.thoughts.get(e.name, {}).get(query_id))
        ],
        "passages": list(passages.values()),
    }


def _passage(part: ReportPart, passage_id: str, name: str, grade: int | None) -> dict[str, Any]:
    passage = part.passages.get(passage_id)
    relevant = grade is not None and grade >= part.study.min_grade
    title, text = (passage.title, passage.text) if passage else ("", "no text at hand")
    return {
        "id": name,
        "passage_id": passage_id,
        "title": title,
        "text": text,
        "label": (passage and _cut(title or text, _LABEL)) or passage_id,
        "relevant": relevant,
        "grade": "not judged" if grade is None else f"{'★ ' if relevant else ''}grade {grade}",
    }


def _list(
    part: ReportPart, entry: Entry, query_id: str, passages: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """One ranking. moves: where its passages came from, or of a first stage where they went."""
    first = entry.source.first_stage
    number = None if first is None else part.rerankers.index(entry)
    ranking = entry.source.run.get(query_id)
    before = None if first is None else part.study.entry(first).source.run.get(query_id)
    after = {
        i: _ranks(reranker.source.run[query_id])
        for i, reranker in enumerate(part.rerankers)
        if reranker.source.first_stage == entry.name and query_id in reranker.source.run
    }
    ranks = None if before is None else _ranks(before)
    return {
        "name": entry.name,
        "run": number,
        "value": f"{part.measure} {entry.evaluation.per_query[part.measure][query_id]:.3f}",
        "passages": [
            {
                **passages[p],
                "moves": [
                    *([] if ranks is None else [(*_came_from(ranks.get(p), rank), None)]),
                    *((*_went_to(where.get(p), rank), run) for run, where in after.items()),
                ],
            }
            for rank, p in enumerate(ranking.passage_ids[:_DEPTH] if ranking else (), 1)
        ],
    }


def _ranks(ranking: Ranking) -> dict[str, int]:
    return {p: rank for rank, p in enumerate(ranking.passage_ids, 1)}


def _came_from(before: int | None, now: int) -> tuple[str, str]:
    """How a passage came to its rank: a text, and a class of the style sheet."""
    if before is None:
        return "new", ""
    arrow, side = _sided(before - now, ("▲", "up"), ("▼", "down"), ("=", ""))
    return f"{arrow} {abs(before - now)}" if side else arrow, side


def _went_to(after: int | None, now: int) -> tuple[str, str]:
    """The rank of a first stage's passage afterwards."""
    if after is None:
        return "→ gone", "down"
    return f"→ {after}", _sided(now - after, "up", "down", "")


def _sided(value: float, above: T, below: T, same: T) -> T:
    return above if value > 0 else below if value < 0 else same


def _cut(text: str, limit: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else f"{text[: limit - 1].rstrip()}…"


def _bold(text: str, wanted: bool) -> str:
    return Markup("<b>{}</b>").format(text) if wanted else text


def _finalized(value: Any) -> Any:
    """Called for each value before it is escaped; markup is ours."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _resource(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _template(name: str) -> str:
    """Without line breaks and indentation, which are there for readers of the template."""
    return re.sub(r"\n\s*", "", _resource(name))


_TEMPLATES = jinja2.Environment(
    loader=jinja2.FunctionLoader(_template),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    finalize=_finalized,
)
_TEMPLATES.filters |= {"bold": _bold, "commas": "{:,}".format}
