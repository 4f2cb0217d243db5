"""How far long work is: a bar with rate and time left, or now and then a plain line."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from dear.characters import visible_line
from dear.cli.output import below, duration, quiet, rate, visible_streams
from dear.steps.progress import OnProgress, Silent

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

FIRST_LINE_S = 10.0
"""Where there is no terminal, work that is done before this says nothing."""

EVERY_S = 30.0
"""Seconds between plain lines."""


@contextlib.contextmanager
def progress(what: str, unit: str) -> Iterator[OnProgress]:
    """A report for one piece of work; it shows on standard error and ends with the block.

    what: such as `scoring`.  unit: such as `pairs`.
    """
    if quiet.get():
        yield Silent()
    elif sys.stderr.isatty():
        # rich puts a stream of its own in front of ours while its bars are shown
        with _bars() as bars, visible_streams():
            yield _Bar(bars, what, unit)
    else:
        yield _PlainLines(what, unit)


@contextlib.contextmanager
def lines(what: str, unit: str) -> Iterator[OnProgress]:
    """The same in plain lines, for work that may go on inside another's bar."""
    yield Silent() if quiet.get() else _PlainLines(what, unit)


def _bars() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        TextColumn("{task.fields[numbers]}", markup=False),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[extra]}", markup=False),
        console=Console(file=below(sys.stderr), highlight=False),
    )


class _Bar:
    def __init__(self, bars: Progress, what: str, unit: str) -> None:
        self.bars, self.unit = bars, unit
        self.restart(what)

    def restart(self, what: str) -> None:
        self.started = time.monotonic()
        self.task: TaskID = self.bars.add_task(visible_line(what), total=None, numbers="", extra="")

    def __call__(self, done: int, total: int, /, *, before: int = 0, extra: str = "") -> None:
        pace = rate(done - before, time.monotonic() - self.started)
        numbers = f"{done:,}/{total:,} {self.unit} {pace}"
        extra = visible_line(extra)
        self.bars.update(self.task, completed=done, total=total, numbers=numbers, extra=extra)


class _PlainLines:
    """`dear: scoring: 1,200/5,000 pairs, 85/s, 45 s left`."""

    def __init__(self, what: str, unit: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.unit, self.clock = unit, clock
        self.restart(what)

    def restart(self, what: str) -> None:
        self.what, self.started, self.next_s = what, self.clock(), FIRST_LINE_S

    def __call__(self, done: int, total: int, /, *, before: int = 0, extra: str = "") -> None:
        new, seconds = done - before, self.clock() - self.started
        if seconds < self.next_s:
            return
        self.next_s = seconds + EVERY_S
        parts = [f"{self.what}: {done:,}/{total:,} {self.unit}", rate(new, seconds)]
        if new:
            parts.append(f"{duration((total - done) * seconds / new)} left")
        print(f"dear: {', '.join([*parts, *filter(None, [extra])])}", file=sys.stderr, flush=True)
