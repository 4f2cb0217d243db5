"""`dear label`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dear.cli.loading import steps
from dear.cli.options import expanded
from dear.cli.output import count, duration, rate, summary
from dear.cli.progress import progress
from dear.steps.options import LabelOptions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dear.label import Labelled
    from dear.steps.label import LabelEstimate


@expanded
def label(options: LabelOptions) -> None:
    """Write a teacher's soft labels: a run to a folder. Goes on where it was stopped."""
    if options.dry_run:
        for line in _estimate_lines(steps.label.estimate(options)):
            print(line)
        return
    for done in steps.label.label(options, watch=progress):
        summary(_line(done))


def _estimate_lines(found: LabelEstimate) -> Iterator[str]:
    whose = "" if found.share is None else f"{found.share}: "
    kept = f", {found.kept:,} have a label" if found.kept else ""
    yield f"{whose}{count(found.pairs, 'pair')} to score{kept}"
    yield f"{found.tokens:,} tokens, {found.tokens_per_pair:.0f} a pair (by a sample)"
    how = "measured here on a sample" if found.measured else "as given"
    seconds = duration(found.seconds)
    yield f"{seconds} in one process, at {rate(found.pairs_per_second, 1)} ({how})"
    if found.cost is not None:
        yield f"cost: {found.cost:,.2f} at {found.price:,.2f} an hour"


def _line(done: Labelled) -> str:
    again = ""
    if done.changed:
        again = f", {done.changed:,} of them scored again because their texts changed"
    before = f", {done.kept:,} kept" if done.kept else ""
    return (
        f"{done.folder}: {count(done.scored, 'pair')} in {duration(done.seconds)} "
        f"({rate(done.scored, done.seconds)}){again}{before}"
    )
