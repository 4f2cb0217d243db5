"""Gains and losses: of each query, sorted; of each system, with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dear.evaluate.plot.canvas import Canvas, label, shortened, ticks

_WIDTH, _LEFT = 360, 44


@dataclass(frozen=True, slots=True)
class Gain:
    """A system's mean difference to its first stage, with its interval. sure: significant."""

    name: str
    difference: float
    interval: tuple[float, float]
    sure: bool


def gains(title: str, found: Sequence[Gain], *, x: str) -> Canvas:
    """Mean differences around a line at 0: filled where sure, open where not."""
    row, top, left, width = 40, 6, 12, 336
    low = min(0.0, *(g.interval[0] for g in found))
    high = max(0.0, *(g.interval[1] for g in found))
    margin = 0.04 * (high - low) or 0.05
    low, high = low - margin, high + margin
    bottom = top + row * len(found)
    told = "; ".join(
        f"{g.name}: {g.difference:+.4f}, {g.interval[0]:+.4f} to {g.interval[1]:+.4f}"
        f"{'' if g.sure else ', not significant'}"
        for g in found
    )
    canvas = Canvas(_WIDTH, bottom + 44, title, f"{told}.")

    def at(value: float) -> float:
        return left + width * (value - low) / (high - low)

    for value in ticks(low, high):
        canvas.line(at(value), top, at(value), bottom)
        canvas.text(at(value), bottom + 16, label(value), "s", anchor="middle")
    canvas.line(at(0), top, at(0), bottom, "i")
    canvas.text(left + width / 2, bottom + 36, x, "s", anchor="middle")
    for index, gain in enumerate(found):
        y = top + row * index
        middle = y + 29
        # a long name starts at the left edge, whatever lies below
        canvas.text(left, y + 16, shortened(gain.name, 44), "t")
        canvas.line(at(gain.interval[0]), middle, at(gain.interval[1]), middle, "i")
        kind = "m" if gain.difference >= 0 else "l"
        canvas.circle(at(gain.difference), middle, 5, kind if gain.sure else f"{kind} open")
    return canvas


def differences(title: str, found: Sequence[float], *, y: str) -> Canvas:
    """One bar a query, the most hurt on the left: gains above the line, losses below it.

    found: one difference a query, any order. Wider than a bar a pixel: the bars grow thin.
    """
    values = sorted(found)
    top, height, width = 24, 150, _WIDTH - _LEFT - 12
    low, high = min(0.0, *values, -0.05), max(0.0, *values, 0.05)
    wins, losses = sum(v > 0 for v in values), sum(v < 0 for v in values)
    canvas = Canvas(
        *(_WIDTH, top + height + 30, title),
        f"{wins} of {len(values)} queries gain, {losses} lose, {len(values) - wins - losses} stay. "
        f"From {values[0]:+.3f} to {values[-1]:+.3f}.",
    )

    def at(value: float) -> float:
        return top + height * (high - value) / (high - low)

    for value in ticks(low, high):
        canvas.line(_LEFT, at(value), _LEFT + width, at(value))
        canvas.text(_LEFT - 6, at(value) + 4, label(value), "s", anchor="end")
    step = width / len(values)
    # one shape for all gains and one for all losses: hundreds of bars stay small as text
    for kind, chosen in (("l", range(losses)), ("m", range(len(values) - wins, len(values)))):
        if not chosen:
            continue
        outline = [(_LEFT + step * chosen[0], at(0))]
        for index in chosen:
            height_at = at(values[index])
            outline += [
                (_LEFT + step * index, height_at),
                (_LEFT + step * (index + 1), height_at),
            ]
        outline.append((_LEFT + step * (chosen[-1] + 1), at(0)))
        canvas.path(outline, kind, closed=True)
    canvas.line(_LEFT, at(0), _LEFT + width, at(0), "i")
    canvas.text(4, 12, y, "s")
    canvas.text(_LEFT, top + height + 20, f"{losses} lose", "s")
    canvas.text(
        *(_LEFT + width / 2, top + height + 20, f"{len(values) - wins - losses} stay", "s"),
        anchor="middle",
    )
    canvas.text(_LEFT + width, top + height + 20, f"{wins} gain", "s", anchor="end")
    return canvas
