"""Efficiency against effectiveness: one point a system, x on a logarithmic scale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dear.evaluate.plot.canvas import Canvas, label, ticks


@dataclass(frozen=True, slots=True)
class Point:
    """One system of a scatter. strong: drawn in the accent colour."""

    name: str
    x: float
    y: float
    strong: bool = False


@dataclass(frozen=True, slots=True)
class _Frame:
    """Where values lie: x logarithmic between powers of ten, y linear."""

    left: int
    top: int
    width: int
    height: int
    low_x: float
    high_x: float
    low_y: float
    high_y: float

    @classmethod
    def around(cls, found: Sequence[Point], left: int, top: int, width: int, height: int) -> _Frame:
        return cls(
            *(left, top, width, height),
            10.0 ** math.floor(math.log10(min(p.x for p in found))),
            10.0 ** math.ceil(math.log10(max(p.x for p in found) * 1.0001)),
            math.floor(min(p.y for p in found) * 20 - 0.5) / 20,
            math.ceil(max(p.y for p in found) * 20 + 0.5) / 20,
        )

    def x(self, value: float) -> float:
        return self.left + self.width * math.log(value / self.low_x) / math.log(
            self.high_x / self.low_x
        )

    def y(self, value: float) -> float:
        return self.top + self.height * (self.high_y - value) / (self.high_y - self.low_y)

    def draw(self, canvas: Canvas, x: str, y: str) -> None:
        bottom = self.top + self.height
        powers = range(round(math.log10(self.low_x)), round(math.log10(self.high_x)) + 1)
        for power in powers:
            here = self.x(10.0**power)
            canvas.line(here, self.top, here, bottom)
            canvas.text(here, bottom + 18, _power(power), "s", anchor="middle")
        for value in ticks(self.low_y, self.high_y, max(3, self.height // 36)):
            here = self.y(value)
            canvas.line(self.left, here, self.left + self.width, here)
            canvas.text(self.left - 8, here + 4, label(value), "s", anchor="end")
        canvas.text(self.left + self.width / 2, bottom + 38, x, "s", anchor="middle")
        canvas.text(12, self.top - 10, y, "s")


def scatter(title: str, subtitle: str, found: Sequence[Point], *, x: str, y: str) -> str:
    """Points with their names, x on a logarithmic scale (above 0), as an SVG document."""
    frame = _Frame.around(found, 70, 24, 560, 300)
    canvas = Canvas(880, 380, title)
    frame.draw(canvas, x, y)
    right, label_y = frame.left + frame.width, -1000.0
    for point in sorted(found, key=lambda p: (-p.y, p.x)):
        here_x, here_y = frame.x(point.x), frame.y(point.y)
        # names stand on the right, one below the other, each tied to its point
        label_y = max(here_y, label_y + 18)
        canvas.line(here_x, here_y, right + 8, label_y)
        canvas.circle(here_x, here_y, 6, "m" if point.strong else "b")
        canvas.text(right + 12, label_y + 4, point.name, "s")
    return canvas.document(subtitle)


def numbered(title: str, found: Sequence[Point], *, x: str, y: str) -> Canvas:
    """The same for a narrow place: points are numbered from 1, and named beside the plot.

    Points that would cover each other are drawn one beside the other, tied to their place.
    """
    frame = _Frame.around(found, 48, 26, 288, 190)
    told = "; ".join(f"{i}: {p.name}, {p.x:.4g}, {p.y:.4f}" for i, p in enumerate(found, 1))
    canvas = Canvas(360, 262, title, f"{y} against {x}. {told}.")
    frame.draw(canvas, x, y)
    placed: list[tuple[float, float]] = []
    for number, point in enumerate(found, 1):
        at = frame.x(point.x), frame.y(point.y)
        spot = at
        while any(math.dist(spot, other) < 19 for other in placed):
            spot = (spot[0], spot[1] + 6)
        placed.append(spot)
        if spot != at:
            canvas.line(*at, *spot, "i")
        canvas.circle(*spot, 9, "m" if point.strong else "b")
        canvas.text(spot[0], spot[1] + 4, str(number), "n", anchor="middle")
    return canvas


def _power(power: int) -> str:
    return f"{10.0**power:,.{max(0, -power)}f}"
