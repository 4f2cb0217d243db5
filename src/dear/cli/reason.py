"""`dear reason`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from dear.cli.loading import steps
from dear.cli.options import expanded
from dear.cli.output import count, duration, rate, summary
from dear.cli.progress import progress
from dear.steps.options import ReasonOptions

if TYPE_CHECKING:
    from dear.steps.reason import Asked, ReasonResult


@expanded
def reason(options: ReasonOptions) -> None:
    """Write the reasoning set: lists with thought and order. Goes on where it was stopped."""
    result = steps.reason.reason(options, watch=progress)
    for line in _lines(options.output, result):
        summary(line)


def _lines(folder: Path, result: ReasonResult) -> Iterator[str]:
    selected, drawn = result.selected, result.drawn
    if drawn is not None and drawn.skipped:
        why = steps.reason.format_counts(drawn.skipped)
        hint = steps.reason.skipped_hint(drawn)
        yield f"{count(drawn.skipped.total(), 'query')} without a list ({why}){hint}"
    if drawn is not None and drawn.left_out:
        yield (
            f"{drawn.left_out:,} of {count(drawn.candidates, 'candidate')} left out, because a "
            "test split holds them"
        )
    if selected.dropped:
        why = steps.reason.format_counts(selected.dropped)
        yield f"{count(selected.dropped.total(), 'example')} dropped ({why})"
    if result.asked is not None:
        yield _asked_line(result.asked)
    kept = len(selected.examples)
    mean = sum(len(e.passages) for e in selected.examples) / max(1, kept)
    there, seconds = selected.answers - result.new, result.seconds
    now = f" in {duration(seconds)} ({rate(result.new, seconds)})" if result.new else ""
    before = f", {there:,} were there" if seconds and there > 0 else ""
    yield f"{folder}: {count(kept, 'example')} of {mean:.1f} passages{now}{before}"


def _asked_line(asked: Asked) -> str:
    before = f", {asked.cached:,} kept from before" if asked.cached else ""
    paid = "" if asked.cost is None else f", ${asked.cost:.4f}"
    return (
        f"{count(asked.new, 'answer')} asked for{before}; {asked.prompt_tokens:,} tokens in, "
        f"{asked.completion_tokens:,} out{paid} in all"
    )
