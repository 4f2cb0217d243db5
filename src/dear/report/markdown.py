"""The report's tables as Markdown (GitHub's kind)."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence

from dear.report.charts import plain
from dear.report.parts import Report, ReportPart
from dear.report.repeat import measured_with, run_files
from dear.report.rows import (
    ALPHA,
    Cell,
    Verdict,
    headline,
    ordered_pairs,
    p_value,
    signed,
)
from dear.report.words import summary

MARKS: dict[Verdict, str] = {
    "better": " ▲",
    "worse": " ▼",
    "unsure": " ≈",
    "refused": " ⊘",
    "first": "",
    "alone": "",
}


def markdown(report: Report) -> str:
    """Title, paragraph, headline table, then each collection's tables, then how to repeat it."""
    blocks = [
        f"# {_said(report.title)}",
        _said(summary(report)),
        *_headline(report),
        *(block for part in report.parts for block in _part(part)),
        *_repeat(report),
    ]
    return "\n\n".join(blocks) + "\n"


def _headline(report: Report) -> Iterator[str]:
    found = headline(report)
    means = any(row.mean is not None for row in found.rows)
    heads = [f"{collection} {measure}" for collection, measure in found.columns]
    rows = [
        [
            _said(row.name),
            *map(_cell, row.cells),
            *([_mean(row.mean, row.mean_best)] if means else []),
        ]
        for row in found.rows
    ]
    rows += [
        [
            f"*{_said(system)}* (published, not measured here: {_said(beside)})",
            *("–" if v is None else f"*{v:.4f}*" for v in values),
            *([""] if means else []),
        ]
        for system, beside, values in found.published
    ]
    yield _table(["run", *map(_said, heads), *(["mean"] if means else [])], rows)
    yield (
        f"▲ ▼: significantly better or worse than the first stage (paired randomisation test, "
        f"Holm-corrected, p < {ALPHA:g}); ≈: no significant difference; ⊘: not compared; "
        "bold: the highest."
    )
    if found.refusals:
        yield "\n".join(f"- ⊘ {_said(line)}" for line in found.refusals)


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return "–"
    return f"{_strong(f'{cell.value:.4f}', cell.best)}{MARKS[cell.verdict]}"


def _mean(value: float | None, best: bool) -> str:
    return "–" if value is None else _strong(f"{value:.4f}", best)


def _part(part: ReportPart) -> Iterator[str]:
    study = part.study
    yield f"## {_said(study.collection)}"
    yield (
        f"{len(study.query_ids):,} judged queries of split {_said(study.split)}; "
        f"relevant from grade {study.min_grade}."
    )
    best = {m: max(round(e.evaluation.means[m], 4) for e in study.entries) for m in study.measures}
    yield _table(
        ["run", *study.measures],
        [
            [
                _said(f"{e.name} (first stage)" if e.is_first_stage else e.name),
                *(
                    _strong(f"{v:.4f}", round(v, 4) == best[m])
                    for m in study.measures
                    for v in (e.evaluation.means[m],)
                ),
            ]
            for e in study.entries
        ],
    )
    pairs = ordered_pairs(study)
    if pairs:
        yield _table(
            [
                *(f"pair, by {part.measure}", "difference", "95 % interval", "p rand.", "p t"),
                *("effect", "wins/ties/losses"),
            ],
            [
                [
                    _said(f"{pair.a} − {pair.b}"),
                    signed(c.difference),
                    f"{signed(c.interval[0])} to {signed(c.interval[1])}",
                    _said(p_value(pair.holm_randomisation)),
                    _said(p_value(pair.holm_t)),
                    "–" if c.effect is None else signed(c.effect, 2),
                    f"{c.wins}/{c.ties}/{c.losses}",
                ]
                for pair in pairs
                for c in (pair.comparison,)
            ],
        )
    lines = [f"Not compared: {r.a} − {r.b}, {r.reason}." for r in study.refusals]
    if lines or study.notes:
        yield "\n".join(f"- {_said(line)}" for line in (*lines, *study.notes))


def _repeat(report: Report) -> Iterator[str]:
    files = list(run_files(report))
    if not (report.command or report.versions or files):
        return
    yield "## How to repeat it"
    if report.command:
        fence = "`" * (max(map(len, re.findall("`+", report.command)), default=2) + 1)
        yield f"{fence:`<3}\n{plain(report.command)}\n{fence:`<3}"
    if report.versions:
        yield f"With {', '.join(f'{_said(k)} {_said(v)}' for k, v in report.versions.items())}."
    if inputs := list(measured_with(report)):
        yield "\n".join(f"- {_said(line)}" for line in inputs)
    if files:
        yield _table(
            ["collection", "run", "file", "sha256"],
            [[_said(f.collection), _said(f.name), _said(f.path), f.sha256] for f in files],
        )


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    aligned = ["---", *["---:"] * (len(headers) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (headers, aligned, *rows))


def _strong(text: str, wanted: bool) -> str:
    return f"**{text}**" if wanted else text


def _said(text: str) -> str:
    """Text that neither markup nor a table's bars can break."""
    flat = html.escape(" ".join(plain(text).split()), quote=False)
    return re.sub(r"([\\`*_\[\]|~#])", r"\\\1", flat)
