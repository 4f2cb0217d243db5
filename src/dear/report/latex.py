"""The report's tables as LaTeX, to be \\input; needs the package booktabs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dear.report.charts import plain
from dear.report.parts import Report, ReportPart
from dear.report.rows import (
    ALPHA,
    Cell,
    Verdict,
    headline,
    ordered_pairs,
    p_value,
    signed,
)

MARKS: dict[Verdict, str] = {
    "better": r"\rlap{$^{\uparrow}$}",
    "worse": r"\rlap{$^{\downarrow}$}",
    "unsure": "",
    "refused": r"\rlap{$^{\dagger}$}",
    "first": "",
    "alone": "",
}

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "−": "$-$",
    "…": r"\ldots{}",
    **{char: f"\\{char}" for char in "&%$#_{}"},
}


def latex(report: Report) -> str:
    """A table environment for the headline, and two for each collection."""
    blocks = ["% needs \\usepackage{booktabs}", _headline(report)]
    for part in report.parts:
        blocks += [_measures(part), *_pairs(part)]
    return "\n\n".join(blocks) + "\n"


def _headline(report: Report) -> str:
    found = headline(report)
    means = any(row.mean is not None for row in found.rows)
    heads = ["Run", *(f"{c} {m}" for c, m in found.columns), *(["Mean"] if means else [])]
    rows = [
        [
            escaped(row.name),
            *map(_cell, row.cells),
            *([_mean(row.mean, row.mean_best)] if means else []),
        ]
        for row in found.rows
    ]
    others = [
        [
            f"{escaped(system)} ({escaped(beside)})",
            *("--" if v is None else rf"\textit{{{v:.4f}}}" for v in values),
            *([""] if means else []),
        ]
        for system, beside, values in found.published
    ]
    caption = (
        rf"Every run by collection. $\uparrow$, $\downarrow$: significantly better or worse than "
        rf"its first stage (paired randomisation test, Holm-corrected, $p < {ALPHA:g}$); bold: the "
        "highest"
    )
    if found.refusals:
        caption += rf"; $\dagger$: not compared ({escaped('; '.join(found.refusals))})"
    if others:
        caption += "; last rows: published by others, not measured here"
    return _table(f"{caption}.", "tab:results", heads, rows, others)


def _cell(cell: Cell | None) -> str:
    return "--" if cell is None else _strong(cell.value, cell.best) + MARKS[cell.verdict]


def _mean(value: float | None, best: bool) -> str:
    return "--" if value is None else _strong(value, best)


def _measures(part: ReportPart) -> str:
    study = part.study
    best = {m: max(round(e.evaluation.means[m], 4) for e in study.entries) for m in study.measures}
    rows = [
        [
            escaped(e.name),
            *(
                _strong(v, round(v, 4) == best[m])
                for m in study.measures
                for v in (e.evaluation.means[m],)
            ),
        ]
        for e in study.entries
    ]
    caption = f"{escaped(study.collection)}: means over {len(study.query_ids)} judged queries."
    return _table(caption, f"tab:{_key(study.collection)}", ["Run", *study.measures], rows)


def _pairs(part: ReportPart) -> Iterator[str]:
    pairs = ordered_pairs(part.study)
    if not pairs:
        return
    rows = [
        [
            escaped(f"{pair.a} − {pair.b}"),
            escaped(signed(c.difference)),
            f"[{escaped(signed(c.interval[0]))}, {escaped(signed(c.interval[1]))}]",
            escaped(p_value(pair.holm_randomisation)),
            escaped(p_value(pair.holm_t)),
            "--" if c.effect is None else escaped(signed(c.effect, 2)),
            f"{c.wins}/{c.ties}/{c.losses}",
        ]
        for pair in pairs
        for c in (pair.comparison,)
    ]
    heads = ["Pair", "Difference", "95 % interval", "p (rand.)", "p (t)", "Effect", "W/T/L"]
    name = part.study.collection
    caption = f"{escaped(name)}: differences in {escaped(part.measure)}, p corrected (Holm)."
    yield _table(caption, f"tab:{_key(name)}-pairs", heads, rows)


def _table(
    caption: str,
    label: str,
    headers: Sequence[str],
    rows: Sequence[Sequence[str]],
    others: Sequence[Sequence[str]] = (),
) -> str:
    lines = [
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{caption}}}",
        rf"  \label{{{label}}}",
        rf"  \begin{{tabular}}{{l{'r' * (len(headers) - 1)}}}",
        r"    \toprule",
        f"    {' & '.join(map(escaped, headers))} \\\\",
        r"    \midrule",
        *(f"    {' & '.join(row)} \\\\" for row in rows),
        *([r"    \midrule"] if others else []),
        *(f"    {' & '.join(row)} \\\\" for row in others),
        r"    \bottomrule",
        r"  \end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines)


def _strong(value: float, wanted: bool) -> str:
    return rf"\textbf{{{value:.4f}}}" if wanted else f"{value:.4f}"


def _key(name: str) -> str:
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in name)


def escaped(text: str) -> str:
    """Text that TeX prints as it is."""
    return "".join(_SPECIAL.get(c, c) for c in " ".join(plain(text).split()))
