"""`dear distill`: the whole way, and the table at its end."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dear.cli.loading import steps
from dear.cli.options import expanded
from dear.cli.output import Align, count, duration, note, quiet, table
from dear.cli.progress import progress
from dear.data.collections import check_collection
from dear.steps.options import DistillOptions
from dear.steps.recommendation import FEW_STEPS

if TYPE_CHECKING:
    from dear.steps.distilled import Distilled, ExampleQuery, LabelsWorth, SystemRow, Untrained
    from dear.steps.recommendation import Recommendation

SIGNIFICANT = 0.05


@expanded
def distill(options: DistillOptions) -> None:
    """The whole way: from a collection to a student.

    A first table shows what needs no training, the last one what the training was worth, and what
    the teacher's labels alone. Goes on where it was stopped.
    """
    check_collection(options.collection)  # before torch is loaded
    found = steps.distill.distill_with(options, watch=progress, note=note, first=_show_untrained)
    _show(found)


def _show_untrained(found: Untrained) -> None:
    print(f"\n{found.collection}: what needs no training, {_tested(found)}\n")
    show_rows(found.rows, judged=True)
    if not quiet.get():
        print(f"\n{_HOW_TESTED}\n")
    sys.stdout.flush()  # the rest takes minutes


def _show(found: Distilled) -> None:
    print(f"\n{found.collection}: {_tested(found)}\n")
    judged = any(row.difference is not None for row in found.rows)
    show_rows(found.rows, judged=judged)
    if quiet.get():
        return
    print()
    if not judged:
        names = {row.system: row.name for row in found.rows}
        print(
            f"agreement: Kendall's tau with {names[found.recommendation.best]}. It says how far "
            "systems differ, not which\nis better: judge some queries to know (qrels/test.tsv)."
        )
    else:
        print(_HOW_TESTED)
    if found.labels_worth is not None:
        print(labels_worth(found.labels_worth, found.queries))
    print(f"All stages: {duration(sum(found.stage_seconds.values()))}.")
    if found.glimpse is not None:
        _show_example(found.glimpse)
    _show_recommendation(found)


def _show_recommendation(found: Distilled) -> None:
    """What to use, with the commands; then what is to be said of the student."""
    one, names = found.recommendation, {row.system: row.name for row in found.rows}
    if one.student is None and one.interval is None:
        why = "which costs no training, and its vectors are on disk"
    elif one.interval is None and one.system == one.best:
        why = "what the student learnt from, and nothing that costs less agrees with it enough"
    elif one.interval is None:
        why = "it costs less than the teacher and agrees with it most"
    elif one.system == one.best:
        why = f"the best {found.measure} of those measured"
    else:
        why = (
            f"the cheapest that is about as good as the best, {names[one.best]} "
            f"({one.difference:+.4f}, {_interval(one.interval)})"
        )
    print(f"\nRecommended: {names[one.system]}, {why}.")
    for command in one.commands:
        print(f"  {command}")
    where = found.folder / "student"
    if one.student is None:
        print(
            "No student was trained: it would learn from that hybrid alone, and so know no more.\n"
            "--teacher MODEL names a teacher that does; --set student.of_first_stage=true trains "
            "one all the same."
        )
    elif one.student_difference is None:
        print(f"The student is in {where}.")
    else:
        print(f"The {names[one.student]}, in {where}, {_against(one)}.")
    if one.student_steps is not None and one.student_steps < FEW_STEPS:
        steps = count(one.student_steps, "training step")
        print(f"It had {steps} only: more queries, or more epochs in the recipe, may change that.")


def _against(one: Recommendation) -> str:
    """How the student compares with what is recommended."""
    assert one.student_difference is not None
    if one.student_interval is None:
        text = f"agrees {abs(one.student_difference):.4f} less with the teacher"
    else:
        side = "below" if one.student_difference < 0 else "above"
        text = f"is {abs(one.student_difference):.4f} {side} it ({_interval(one.student_interval)})"
    return (
        text if one.student_times is None else f"{text} and {one.student_times:.1f} times as fast"
    )


def _interval(low_high: tuple[float, float]) -> str:
    return f"95 % interval {low_high[0]:+.4f} to {low_high[1]:+.4f}"


_HOW_TESTED = (
    "gain and p against the first stage; p: paired randomisation, Holm-corrected; "
    "intervals are not."
)


def _tested(found: Untrained | Distilled) -> str:
    return f"{found.queries:,} test queries, best {found.top_k} reranked"


def labels_worth(found: LabelsWorth, queries: int) -> str:
    """What the labels alone were worth, and between what and what that is the difference."""
    low, high = found.interval
    if found.p >= SIGNIFICANT:
        verdict = f"were worth nothing that {queries:,} queries can show"
    else:
        verdict = "were worth something" if found.difference > 0 else "did harm"
    start = "the teacher's encoder" if found.start == "teacher" else found.start
    return (
        f"The labels alone {verdict}: {found.difference:+.4f} "
        f"(95 % interval {low:+.4f} to {high:+.4f}, not corrected; corrected p {_p(found.p)}).\n"
        f"Both students started from {start} and read the same queries, one with the teacher's "
        "labels, the other with judgements alone."
    )


def show_rows(found: Sequence[SystemRow], *, judged: bool) -> None:
    headers = ["system", "nDCG@10" if judged else "agreement"]
    headers += ["95 % interval", "gain", "p"] if judged else []
    headers += ["parameters", "pairs/s"]
    trained = any(row.seconds is not None for row in found)
    headers += ["training"] if trained else []
    rows = [_cells(row, judged)[: len(headers)] for row in found]
    align: list[Align] = ["left"]
    table(headers, rows, align=align + ["right"] * (len(headers) - 1))


def _cells(row: SystemRow, judged: bool) -> list[str]:
    cells = [row.name, f"{row.score:.4f}"]
    if judged:
        low_high = "" if row.interval is None else f"{row.interval[0]:.3f}-{row.interval[1]:.3f}"
        gain = "" if row.difference is None else f"{row.difference:+.4f}"
        cells += [low_high, gain, "" if row.p is None else _p(row.p)]
    millions = "" if row.parameters is None else f"{row.parameters / 1e6:.1f} M"
    pace = "" if row.pairs_per_s is None else f"{row.pairs_per_s:,.0f}"
    seconds = "" if row.seconds is None else duration(row.seconds)
    return [*cells, millions, pace, seconds]


def _p(p: float) -> str:
    """Two digits: four decimals would round a p up, or down to a half of what it is."""
    return "< 0.0001" if p < 0.0001 else f"{p:.2g}"


def _show_example(glimpse: ExampleQuery) -> None:
    print(f'\n"{glimpse.query}"')
    for title, texts, relevant in (
        ("  before:", glimpse.before, glimpse.relevant_before),
        ("  after:", glimpse.after, glimpse.relevant_after),
    ):
        print(title)
        for rank, (text, right) in enumerate(zip(texts, relevant, strict=True), 1):
            line = " ".join(text.split())
            print(f"  {'✓' if right else ' '} {rank}  {line[:70]}{'…' if len(line) > 70 else ''}")
