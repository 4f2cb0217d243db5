"""Horizontal bars with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dear.evaluate.plot.canvas import Canvas

_LEFT, _WIDTH, _RIGHT, _ROW = 190, 400, 70, 34


@dataclass(frozen=True, slots=True)
class Bar:
    """One value with its interval. strong: drawn in the accent colour."""

    name: str
    value: float
    interval: tuple[float, float] | None = None
    strong: bool = False


def bars(title: str, subtitle: str, found: Sequence[Bar]) -> str:
    """Horizontal bars from 0, with intervals, as an SVG document.

    Values are 0 or more; the axis ends at the next tenth.
    """
    ends = [b.interval[1] if b.interval else b.value for b in found]
    top = max(0.1, -(-max(ends) * 10 // 1) / 10)
    bottom = _ROW * len(found) + 6
    canvas = Canvas(_LEFT + _WIDTH + _RIGHT, bottom + 28, title)

    def x(value: float) -> float:
        return _LEFT + _WIDTH * value / top

    for tenth in range(round(top * 10) + 1):
        at = x(tenth / 10)
        canvas.line(at, 0, at, bottom)
        canvas.text(at, bottom + 16, f"{tenth / 10:.1f}", "s", anchor="middle")
    for index, bar in enumerate(found):
        y = _ROW * index + 8
        middle, edge = y + 10, x(bar.value)
        canvas.text(_LEFT - 10, middle + 5, bar.name, anchor="end")
        canvas.rect(_LEFT, y, edge - _LEFT, 20, "m" if bar.strong else "b", rounded=True)
        if bar.interval is not None:
            low, edge = x(bar.interval[0]), x(bar.interval[1])
            canvas.line(low, middle, edge, middle, "i")
        canvas.text(edge + 8, middle + 5, f"{bar.value:.3f}")
    return canvas.document(subtitle)
