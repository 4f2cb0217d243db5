"""The report's plots, each with its caption."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dear.evaluate.study import Entry
from dear.report.charts import (
    Canvas,
    Gain,
    Point,
    Series,
    curves,
    densities,
    differences,
    gains,
    numbered,
    reliability,
)
from dear.report.markup import Html, tag
from dear.report.parts import Curve, ReportPart
from dear.report.rows import ALPHA


def figure(canvas: Canvas, name: str, caption: str) -> Html:
    return tag(
        "figure",
        tag("figcaption", tag("b", canvas.title), f" {caption}"),
        Html(canvas.inline(name)),
    )


def collection_figures(part: ReportPart, name: str) -> list[Html]:
    """Gains, differences of each query, distributions of scores, reliability. name: of the ids."""
    made = [*_gains(part), *_differences(part), *_densities(part), *_reliability(part)]
    return [figure(canvas, f"{name}f{i}", caption) for i, (canvas, caption) in enumerate(made)]


def _gains(part: ReportPart) -> Iterator[tuple[Canvas, str]]:
    found = [
        Gain(e.name, c.difference, c.interval, pair.holm_randomisation < ALPHA)
        for e in part.rerankers
        if (pair := part.study.against_first_stage(e)) is not None
        for c in (pair.comparison,)
    ]
    if found:
        canvas = gains("Gain over the first stage", found, x=f"difference in {part.measure}")
        yield canvas, "with 95 % intervals; a full dot is significant."


def _differences(part: ReportPart) -> Iterator[tuple[Canvas, str]]:
    for entry in part.rerankers:
        values = list(part.study.differences(entry).values())
        canvas = differences(f"{entry.name}, query by query", values, y=f"Δ {part.measure}")
        yield canvas, f"minus {entry.source.first_stage}, the most hurt on the left."


def _densities(part: ReportPart) -> Iterator[tuple[Canvas, str]]:
    for entry in part.study.entries:
        relevant, others = _scores_by_relevance(part, entry)
        if relevant and others:
            canvas = densities(f"Scores of {entry.name}", relevant, others)
            grade = part.study.min_grade
            yield canvas, f"Relevant: grade {grade} or above; each area is 1."


def _scores_by_relevance(part: ReportPart, entry: Entry) -> tuple[list[float], list[float]]:
    """Scores of relevant passages, and of all others that the run ranks for judged queries."""
    relevant: list[float] = []
    others: list[float] = []
    for query_id in part.study.query_ids:
        ranking = entry.source.run.get(query_id)
        if ranking is None:
            continue
        grades = part.study.judgements[query_id]
        for passage_id, score in zip(ranking.passage_ids, ranking.scores, strict=True):
            side = relevant if grades.get(passage_id, 0) >= part.study.min_grade else others
            side.append(score)
    return relevant, others


def _reliability(part: ReportPart) -> Iterator[tuple[Canvas, str]]:
    for one in part.reliability:
        canvas = reliability(f"Reliability of {one.name}", one.bins, one.ece)
        yield (
            canvas,
            "On the dashed line a score means what it says; larger dots hold more passages.",
        )


def cost_figure(part: ReportPart, name: str) -> tuple[Html | None, dict[str, int]]:
    """Quality against time, and the number of each entry in it; None where no time is known."""
    timed = [
        (e, ms)
        for e in part.study.entries
        if (ms := part.cost(e).ms_per_query) is not None and ms > 0
    ]
    if not timed:
        return None, {}
    best = max(e.evaluation.means[part.measure] for e, _ in timed)
    points = [
        Point(e.name, ms, value, value == best)
        for e, ms in timed
        for value in (e.evaluation.means[part.measure],)
    ]
    canvas = numbered("Quality against time", points, x="milliseconds a query", y=part.measure)
    shown = figure(canvas, f"{name}cost", "Up and to the left is better. The table has the names.")
    return shown, {e.name: number for number, (e, _) in enumerate(timed, 1)}


def training_figures(found: Sequence[Curve]) -> list[Html]:
    """The loss of the models, and the measure on dev of those that had it; four to a plot."""
    losses = [Series(c.name, c.loss) for c in found if c.loss]
    devs = [Series(c.name, c.dev) for c in found if c.dev]
    made = []
    for number, series in enumerate(_fours(losses)):
        canvas = curves("Loss in training", series, x="step", y="loss")
        made.append(figure(canvas, f"t{number}l", "Each point is the mean since the one before."))
    for number, series in enumerate(_fours(devs)):
        canvas = curves("Dev in training", series, x="step", y="nDCG@10")
        made.append(figure(canvas, f"t{number}d", "nDCG@10 on dev."))
    return made


def _fours(series: Sequence[Series]) -> Iterator[Sequence[Series]]:
    for start in range(0, len(series), 4):
        yield series[start : start + 4]
