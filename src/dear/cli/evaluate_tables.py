"""What `dear evaluate` prints: means, comparisons, the queries hurt most."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from dear.cli.output import UNLIMITED, Align, count, note, quiet, table
from dear.steps.inputs import queries_if_readable

if TYPE_CHECKING:
    from dear.evaluate.compare import PairwiseComparison
    from dear.evaluate.published import PublishedRow
    from dear.evaluate.study import Entry, Refusal, Study
    from dear.records import Query
    from dear.steps.evaluate import EvaluateResult

_RIGHT: Align = "right"
_ALPHA = 0.05
"""A difference with a corrected p below this is marked."""

_MANY = 4
"""Of more runs than these, only the pairs with a first stage are shown."""

_NAME_COLUMNS = 14
_QUERY_CHARACTERS = 100


def show(result: EvaluateResult, *, hurt: int, all_pairs: bool, per_query: bool) -> None:
    """The tables.

    hurt: how many queries a run, with their texts from the collection; 0: none.
    all_pairs: show every pair, however many.
    """
    found = result.study
    _show_means(found)
    if result.published:
        print()
        _show_published(result.published)
    if found.comparisons or found.refusals:
        print()
        _show_comparisons(found, all_pairs)
    if hurt and any(found.hurt(entry, 1) for entry in found.entries):
        print()
        queries, unreadable = queries_if_readable(result.collection)
        if unreadable is not None:
            note(unreadable)
        _show_hurt(found, hurt, queries)
    if per_query:
        print()
        _show_queries(found)


def _show_means(found: Study) -> None:
    entries = found.entries
    columns: dict[str, list[str]] = {}
    for measure in found.measures:
        columns[measure] = [f"{entry.evaluation.means[measure]:.4f}" for entry in entries]
    marks = [_mark(found, entry) for entry in entries]
    if any(marks):
        columns[found.compared] = [
            f"{mean} {mark or ' '}"
            for mean, mark in zip(columns[found.compared], marks, strict=True)
        ]
    if any(entry.evaluation.missing for entry in entries):
        columns["missing"] = [str(len(entry.evaluation.missing)) for entry in entries]
    for header, cells in (
        ("win/tie/loss", [_counts(found.against_first_stage(entry)) for entry in entries]),
        (f"95 % of {found.compared}", [_interval(entry, found.compared) for entry in entries]),
    ):
        if any(cells) and _width(columns) + _width({header: cells}) + _NAME_COLUMNS <= _terminal():
            columns[header] = cells
    table(
        ("run", *columns),
        [
            (f"{entry.name} (first stage)" if entry.is_first_stage else entry.name, *cells)
            for entry, *cells in zip(entries, *columns.values(), strict=True)
        ],
        align=("left", *[_RIGHT] * len(columns)),
        wrap=("run",),
    )
    if quiet.get():
        return
    if found.min_grade > 1:
        print(f"relevant in binary measures (MRR, MAP, R): grade {found.min_grade} and above")
    if any(marks):
        print(f"▲ ▼ {found.compared} above, below the first stage's: corrected p < {_ALPHA}")


def _show_published(rows: Sequence[PublishedRow]) -> None:
    table(
        ("published, not measured here", "measure", "value", "first stage", "source"),
        [
            (
                row.system,
                row.measure,
                f"{row.value:.4f}",
                _reranked(row),
                "; ".join(filter(None, (row.source, row.caveat))),
            )
            for row in rows
        ],
        align=("left", "left", _RIGHT, "left", "left"),
        shorten="source",
    )


def _reranked(row: PublishedRow) -> str:
    depth = "" if row.depth is None else f" top {row.depth}"
    return "" if row.first_stage is None else f"{row.first_stage}{depth}"


def _mark(found: Study, entry: Entry) -> str:
    """Whether a run is surely above or below its first stage."""
    pair = found.against_first_stage(entry)
    if pair is None or pair.holm_randomisation >= _ALPHA:
        return ""
    return "▲" if pair.comparison.difference > 0 else "▼"


def _counts(pair: PairwiseComparison | None) -> str:
    if pair is None:
        return ""
    return f"{pair.comparison.wins}/{pair.comparison.ties}/{pair.comparison.losses}"


def _interval(entry: Entry, measure: str) -> str:
    low, high = entry.interval(measure)
    return f"{low:.4f}–{high:.4f}"


def _terminal() -> int:
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else UNLIMITED


def _width(columns: Mapping[str, Sequence[str]]) -> int:
    return sum(2 + max(map(len, (header, *cells))) for header, cells in columns.items())


def _show_comparisons(found: Study, all_pairs: bool) -> None:
    measure = found.compared
    first = {e.source.first_stage for e in found.entries}
    of_first_stages = {(e.name, e.source.first_stage) for e in found.entries}
    few = len(found.entries) > _MANY and not all_pairs and first != {None}
    pairs = [p for p in found.comparisons if not few or (p.a, p.b) in of_first_stages]
    refusals = [r for r in found.refusals if not few or (r.a, r.b) in of_first_stages]
    table(
        (measure, "difference", "95 % interval", "p rand.", "p t", "effect", "win/tie/loss"),
        [
            (
                f"{pair.a} − {pair.b}",
                f"{c.difference:+.4f}",
                f"{c.interval[0]:+.4f} {c.interval[1]:+.4f}",
                _p(pair.holm_randomisation),
                _p(pair.holm_t),
                "" if c.effect is None else f"{c.effect:+.2f}",
                _counts(pair),
            )
            for pair in pairs
            for c in (pair.comparison,)
        ]
        + [(f"{r.a} − {r.b}", "not compared", _why(r), "", "", "", "") for r in refusals],
        align=("left", *[_RIGHT] * 6),
        wrap=(measure,),
    )
    if quiet.get():
        return
    many = len(found.comparisons)
    corrected = f", Holm-corrected over {many} pairs (the intervals are not)" if many > 1 else ""
    if pairs:
        print(
            f"{count(len(found.query_ids), 'query')}; "
            f"p: paired randomisation and t test{corrected}; "
            "effect: difference in standard deviations of it"
        )
    if refusals:
        print(
            "not compared: other candidates in so many queries, or no query in common; "
            "--across-candidates compares them"
        )
    hidden = many + len(found.refusals) - len(pairs) - len(refusals)
    if hidden:
        print(f"{count(hidden, 'pair')} without a first stage: --all-pairs shows them")


def _why(refusal: Refusal) -> str:
    if not refusal.shared:
        return "no common query"
    return f"in {refusal.queries} of {refusal.shared}"


def _p(value: float) -> str:
    return "<0.0001" if value < 0.0001 else f"{value:.4f}"


def _show_hurt(found: Study, most: int, queries: Mapping[str, Query]) -> None:
    header = f"hurt most ({found.compared})"
    rows = []
    for entry in found.entries:
        for change in found.hurt(entry, most):
            query = queries.get(change.query_id)
            text = "" if query is None else " ".join(query.text.split())
            cut = text if len(text) <= _QUERY_CHARACTERS else text[: _QUERY_CHARACTERS - 1] + "…"
            values = f"{change.before:.4f} → {change.after:.4f}"
            rows.append((entry.name, change.query_id, values, f"{change.difference:+.4f}", cut))
    table(
        (header, "query", "before → after", "difference", "text"),
        rows,
        align=("left", "left", _RIGHT, _RIGHT, "left"),
        shorten="text",
    )


def _show_queries(found: Study) -> None:
    values = [entry.evaluation.per_query[found.compared] for entry in found.entries]
    table(
        (f"query ({found.compared})", *(entry.name for entry in found.entries)),
        [(q, *(f"{one[q]:.4f}" for one in values)) for q in found.query_ids],
        align=("left", *[_RIGHT] * len(found.entries)),
    )
