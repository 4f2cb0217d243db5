"""One HTML file that needs nothing else: no network, and no script to be read."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence
from importlib import resources

from dear.report.browse import Browser
from dear.report.choice import chosen_queries
from dear.report.figures import collection_figures, cost_figure, training_figures
from dear.report.markup import Html, join, table, tag
from dear.report.parts import Report, ReportPart
from dear.report.repeat import measured_with, run_files
from dear.report.tables import (
    comparison_table,
    cost_table,
    has_cost,
    headline_table,
    measures_table,
)
from dear.report.words import summary

MAX_BYTES = 3_000_000
"""What a page may weigh; passages are cut shorter until it does."""

# characters of a passage, queries as a share of those wanted: the first that fits is taken
_SIZES = (
    *((700, 1.0), (400, 1.0), (280, 1.0), (280, 0.75), (280, 0.5), (280, 0.35), (200, 0.25)),
    *((200, 0.15), (100, 0.1), (100, 0.05), (100, 0.02), (0, 0.0)),
)
_TASTED = 5
"""Queries of each collection from whose length that of all is guessed."""


def page(report: Report, *, max_queries: int) -> str:
    """The report, at most MAX_BYTES long as far as that can be had by showing less of texts.

    max_queries: shown for each collection; 0 shows none.
    """
    names = [f"c{i}" for i in range(len(report.parts))]
    fixed = [_fixed(part, name) for part, name in zip(report.parts, names, strict=True)]
    room = MAX_BYTES - len(_document(report, fixed).encode())
    for text_chars, share in _SIZES:
        limit = round(max_queries * share)
        few = min(limit, _TASTED)
        taste = sum(_length(part, few, text_chars) for part in report.parts)
        # rendering what will not fit takes long; a guess may be a third too high
        if few and taste * limit / few > 1.5 * room:
            continue
        lists = [
            _queries(p, n, limit, text_chars) for p, n in zip(report.parts, names, strict=True)
        ]
        text = _document(report, [join(a, b) for a, b in zip(fixed, lists, strict=True)])
        if len(text.encode()) <= MAX_BYTES:
            break
    return text


def _length(part: ReportPart, limit: int, text_chars: int) -> int:
    return len(_queries(part, "c", limit, text_chars).encode())


def _document(report: Report, bodies: Sequence[Html]) -> str:
    script = Html(_resource("page.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    # no network, and no script but ours, whatever a passage holds
    policy = (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'"
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", report.title),
        tag("style", Html(_resource("page.css"))),
    )
    sections = [
        tag(
            "section",
            tag("h2", part.study.collection, id=f"c{i}"),
            body,
        )
        for i, (part, body) in enumerate(zip(report.parts, bodies, strict=True))
    ]
    body = tag(
        "body",
        tag("a", "To the results", href="#results", class_="skip"),
        tag("header", tag("h1", report.title), _theme(), tag("p", summary(report), class_="lead")),
        _navigation(report),
        tag(
            "main",
            tag("section", tag("h2", "Results", id="results"), headline_table(report)),
            *sections,
            *_training(report),
            _repeat(report),
        ),
        tag("script", script),
    )
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def _theme() -> Html:
    return tag("button", "Dark", type="button", id="theme", aria_pressed="false", hidden=True)


def _navigation(report: Report) -> Html:
    places = [("results", "Results")]
    places += [(f"c{i}", p.study.collection) for i, p in enumerate(report.parts)]
    places += [("training", "Training")] if report.curves else []
    places += [("repeat", "How to repeat it")]
    items = [tag("li", tag("a", text, href=f"#{place}")) for place, text in places]
    return tag("nav", tag("ul", *items), aria_label="Sections")


def _fixed(part: ReportPart, name: str) -> Html:
    """Everything of a collection but its queries."""
    study = part.study
    facts = (
        f"{len(study.query_ids):,} judged queries of split {study.split}; "
        f"relevant from grade {study.min_grade}."
    )
    notes = [tag("li", line) for line in study.notes]
    comparisons = comparison_table(part)
    figures = collection_figures(part, name)
    return join(
        tag("p", facts),
        *((tag("ul", *notes, class_="notes"),) if notes else ()),
        tag("h3", "Measures"),
        measures_table(part),
        *((tag("h3", "Comparisons"), comparisons) if comparisons else ()),
        *((tag("h3", "Cost"), _cost(part, name)) if has_cost(part) else ()),
        *((tag("h3", "Plots"), tag("div", *figures, class_="figures")) if figures else ()),
    )


def _cost(part: ReportPart, name: str) -> Html:
    """The plot beside its table."""
    plot, numbers = cost_figure(part, name)
    costs = cost_table(part, numbers)
    return costs if plot is None else tag("div", plot, costs, class_="beside")


def _queries(part: ReportPart, name: str, limit: int, text_chars: int) -> Html:
    chosen = chosen_queries(part, limit)
    if not chosen:
        return Html("")
    total = len(part.study.query_ids)
    which = (
        f"All {total} queries"
        if len(chosen) == total
        else f"{len(chosen)} of {total:,} queries: the most hurt, the most helped, and an even "
        "sample of the others"
    )
    shown = Browser(part, name, chosen, text_chars=text_chars)
    return join(
        tag("h3", "Queries"),
        tag(
            "p",
            f"{which}. Each opens to its rankings before and after; ★ marks relevant passages, "
            "▲ and ▼ how many places a passage rose or fell. A passage’s name leads to its text.",
            class_="small",
        ),
        shown.html(),
    )


def _training(report: Report) -> Iterator[Html]:
    found = training_figures(report.curves)
    if found:
        heading = tag("h2", "Training", id="training")
        yield tag("section", heading, tag("div", *found, class_="figures"))


def _repeat(report: Report) -> Html:
    files = [
        [file.collection, file.name, file.path, tag("code", file.sha256), file.made_by]
        for file in run_files(report)
    ]
    headers = ("collection", "run", "file", "sha256", "made by")
    versions = ", ".join(f"{name} {number}" for name, number in report.versions.items())
    return tag(
        "section",
        tag("h2", "How to repeat it", id="repeat"),
        *((tag("pre", tag("code", report.command), tabindex="0"),) if report.command else ()),
        *((tag("p", f"With {versions}."),) if versions else ()),
        *((tag("p", f"Made on {report.date}."),) if report.date else ()),
        *(tag("p", f"{line}.", class_="small") for line in measured_with(report)),
        table("The runs", headers, files, class_="files") if files else "",
    )


def _resource(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
