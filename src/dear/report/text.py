"""The report's tables as text: Markdown (GitHub's kind), and LaTeX with booktabs to be \\input."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from dear.report.charts import printable
from dear.report.parts import Report, ReportPart
from dear.report.rows import (
    ALPHA,
    Cell,
    Headline,
    Verdict,
    best_means,
    headline,
    input_digests,
    pair_cells,
    pairs_by_kind,
    run_files,
    summary,
)


@dataclass(frozen=True, kw_only=True)
class _Format:
    """How a format writes the cells of its tables."""

    escape: Callable[[str], str]
    strong: str
    italic: str
    none: str
    interval: str
    published: str
    first_stage: str
    marks: Mapping[Verdict, str]

    def number(self, value: float | None, best: bool = False) -> str:
        text = self.none if value is None else f"{value:.4f}"
        return self.strong.format(text) if best else text

    def cell(self, cell: Cell | None) -> str:
        if cell is None:
            return self.none
        return self.number(cell.value, cell.best) + self.marks.get(cell.verdict, "")

    def headline(self, found: Headline) -> tuple[list[list[str]], list[list[str]]]:
        """Rows of what was measured, and of what others published."""
        rows = [
            [
                self.escape(row.name),
                *map(self.cell, row.cells),
                *([self.number(row.mean, row.mean_best)] if found.has_means else []),
            ]
            for row in found.rows
        ]
        others = [
            [
                self.published.format(self.escape(system), self.escape(conditions)),
                *(self.none if v is None else self.italic.format(f"{v:.4f}") for v in values),
                *([""] if found.has_means else []),
            ]
            for system, conditions, values in found.published
        ]
        return rows, others

    def measures(self, part: ReportPart) -> list[list[str]]:
        study, best = part.study, best_means(part.study)
        return [
            [
                self.escape(e.name + self.first_stage if e.is_first_stage else e.name),
                *(
                    self.number(value, round(value, 4) == best[m])
                    for m in study.measures
                    for value in (e.evaluation.means[m],)
                ),
            ]
            for e in study.entries
        ]

    def pairs(self, part: ReportPart) -> list[list[str]]:
        against, others = pairs_by_kind(part.study)
        rows = [pair_cells(p, interval=self.interval, none=self.none) for p in (*against, *others)]
        return [list(map(self.escape, row)) for row in rows]


def escaped_markdown(text: str) -> str:
    """Text that neither markup nor a table's bars can break."""
    flat = html.escape(" ".join(printable(text).split()), quote=False)
    return re.sub(r"([\\`*_\[\]|~#])", r"\\\1", flat)


_MARKDOWN = _Format(
    escape=escaped_markdown,
    strong="**{}**",
    italic="*{}*",
    none="–",
    interval="{} to {}",
    published="*{}* (published, not measured here: {})",
    first_stage=" (first stage)",
    marks={"better": " ▲", "worse": " ▼", "unsure": " ≈", "refused": " ⊘"},
)


def markdown(report: Report) -> str:
    """Title, paragraph, headline table, then each collection's tables, then how to repeat it."""
    blocks = [
        f"# {escaped_markdown(report.title)}",
        escaped_markdown(summary(report)),
        *_markdown_headline(report),
        *(block for part in report.parts for block in _markdown_part(part)),
        *_markdown_repeat(report),
    ]
    return "\n\n".join(blocks) + "\n"


def _markdown_headline(report: Report) -> Iterator[str]:
    found = headline(report)
    rows, others = _MARKDOWN.headline(found)
    names = [escaped_markdown(f"{collection} {measure}") for collection, measure in found.columns]
    yield _markdown_table(["run", *names, *(["mean"] if found.has_means else [])], rows + others)
    yield (
        f"▲ ▼: significantly better or worse than the first stage (paired randomisation test, "
        f"Holm-corrected, p < {ALPHA:g}; intervals are not corrected); "
        "≈: no significant difference; ⊘: not compared; bold: the highest."
    )
    if found.refusals:
        yield _markdown_list(f"⊘ {line}" for line in found.refusals)


def _markdown_part(part: ReportPart) -> Iterator[str]:
    study = part.study
    yield f"## {escaped_markdown(study.collection)}"
    yield (
        f"{len(study.query_ids):,} judged queries of split {escaped_markdown(study.split)}; "
        f"relevant from grade {study.min_grade}."
    )
    yield _markdown_table(["run", *study.measures], _MARKDOWN.measures(part))
    if study.comparisons:
        heads = [f"pair, by {part.measure}", "difference", "95 % interval", "p rand.", "p t"]
        yield _markdown_table([*heads, "effect", "wins/ties/losses"], _MARKDOWN.pairs(part))
    lines = [f"Not compared: {r.a} − {r.b}, {r.reason}." for r in study.refusals]
    if lines or study.notes:
        yield _markdown_list((*lines, *study.notes))


def _markdown_repeat(report: Report) -> Iterator[str]:
    said = escaped_markdown
    files = list(run_files(report))
    if not (report.command or report.versions or files):
        return
    yield "## How to repeat it"
    if report.command:
        fence = "`" * (max(map(len, re.findall("`+", report.command)), default=2) + 1)
        yield f"{fence:`<3}\n{printable(report.command)}\n{fence:`<3}"
    if report.versions:
        yield f"With {', '.join(f'{said(k)} {said(v)}' for k, v in report.versions.items())}."
    if inputs := list(input_digests(report)):
        yield _markdown_list(inputs)
    if files:
        rows = [[said(f.collection), said(f.name), said(f.path), f.sha256] for f in files]
        yield _markdown_table(["collection", "run", "file", "sha256"], rows)


def _markdown_list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {escaped_markdown(line)}" for line in lines)


def _markdown_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    aligned = ["---", *["---:"] * (len(headers) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (headers, aligned, *rows))


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


def escaped_latex(text: str) -> str:
    """Text that TeX prints as it is."""
    return "".join(_SPECIAL.get(c, c) for c in " ".join(printable(text).split()))


_LATEX = _Format(
    escape=escaped_latex,
    strong=r"\textbf{{{}}}",
    italic=r"\textit{{{}}}",
    none="--",
    interval="[{}, {}]",
    published="{} ({})",
    first_stage="",
    marks={
        "better": r"\rlap{$^{\uparrow}$}",
        "worse": r"\rlap{$^{\downarrow}$}",
        "refused": r"\rlap{$^{\dagger}$}",
    },
)


def latex(report: Report) -> str:
    """A table environment for the headline, and two for each collection."""
    blocks = ["% needs \\usepackage{booktabs}", _latex_headline(report)]
    for part in report.parts:
        study = part.study
        name, key = escaped_latex(study.collection), f"tab:{_key(study.collection)}"
        caption = f"{name}: means over {len(study.query_ids)} judged queries."
        blocks.append(_latex_table(caption, key, ["Run", *study.measures], _LATEX.measures(part)))
        if study.comparisons:
            heads = ["Pair", "Difference", "95 % interval", "p (rand.)", "p (t)", "Effect", "W/T/L"]
            by = escaped_latex(part.measure)
            caption = f"{name}: differences in {by}, p corrected (Holm), intervals not."
            blocks.append(_latex_table(caption, f"{key}-pairs", heads, _LATEX.pairs(part)))
    return "\n\n".join(blocks) + "\n"


def _latex_headline(report: Report) -> str:
    found = headline(report)
    rows, others = _LATEX.headline(found)
    heads = ["Run", *(f"{c} {m}" for c, m in found.columns)]
    caption = (
        rf"Every run by collection. $\uparrow$, $\downarrow$: significantly better or worse than "
        rf"its first stage (paired randomisation test, Holm-corrected, $p < {ALPHA:g}$); bold: the "
        "highest"
    )
    if found.refusals:
        caption += rf"; $\dagger$: not compared ({escaped_latex('; '.join(found.refusals))})"
    if others:
        caption += "; last rows: published by others, not measured here"
    heads += ["Mean"] if found.has_means else []
    return _latex_table(f"{caption}.", "tab:results", heads, rows, others)


def _latex_table(
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
        f"    {' & '.join(map(escaped_latex, headers))} \\\\",
        r"    \midrule",
        *(f"    {' & '.join(row)} \\\\" for row in rows),
        *([r"    \midrule"] if others else []),
        *(f"    {' & '.join(row)} \\\\" for row in others),
        r"    \bottomrule",
        r"  \end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines)


def _key(name: str) -> str:
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in name)
