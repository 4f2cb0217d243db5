"""`dear label`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dear.cli.loading import steps
from dear.cli.options import expanded
from dear.cli.output import count, duration, rate, summary
from dear.cli.progress import progress
from dear.steps.options import LabelOptions

if TYPE_CHECKING:
    from dear.label import Labelled


@expanded
def label(options: LabelOptions) -> None:
    """Write a teacher's soft labels: a run to a folder. Goes on where it was stopped."""
    for done in steps.label.label(options, watch=progress):
        summary(_line(done))


def _line(done: Labelled) -> str:
    again = ""
    if done.changed:
        again = f", {done.changed:,} of them scored again because their texts changed"
    before = f", {done.kept:,} kept" if done.kept else ""
    return (
        f"{done.folder}: {count(done.scored, 'pair')} in {duration(done.seconds)} "
        f"({rate(done.scored, done.seconds)}){again}{before}"
    )
