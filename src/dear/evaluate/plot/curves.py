"""Lines: what training logged, and how far a probability can be believed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dear.evaluate.plot.canvas import Canvas, label, shortened, ticks

_DASHES = ("", " k2", " k3", " k4")
"""How the lines differ: in colour and in dashes."""


@dataclass(frozen=True, slots=True)
class Series:
    """(x, y) pairs with x rising, two at least to be seen as a line."""

    name: str
    points: tuple[tuple[float, float], ...]


def curves(title: str, found: Sequence[Series], *, x: str, y: str) -> Canvas:
    """Lines that differ by dash as well as colour, each named at the top."""
    left, top, width, height = 50, 16 + 18 * len(found), 298, 150
    bottom = top + height
    everything = [point for series in found for point in series.points]
    low_x, high_x = min(p[0] for p in everything), max(p[0] for p in everything)
    low, high = min(p[1] for p in everything), max(p[1] for p in everything)
    margin = 0.06 * (high - low) or 0.05
    low, high = low - margin, high + margin
    told = "; ".join(
        f"{s.name}: from {s.points[0][1]:.4g} at {s.points[0][0]:g} "
        f"to {s.points[-1][1]:.4g} at {s.points[-1][0]:g}"
        for s in found
    )
    canvas = Canvas(360, bottom + 40, title, f"{y} by {x}. {told}.")

    def at_x(value: float) -> float:
        return left + width * (value - low_x) / (high_x - low_x or 1.0)

    def at_y(value: float) -> float:
        return top + height * (high - value) / (high - low)

    for value in ticks(low, high):
        canvas.line(left, at_y(value), left + width, at_y(value))
        canvas.text(left - 6, at_y(value) + 4, label(value), "s", anchor="end")
    for value in ticks(low_x, high_x):
        canvas.text(at_x(value), bottom + 18, label(value), "s", anchor="middle")
    canvas.text(left + width / 2, bottom + 36, x, "s", anchor="middle")
    for index, series in enumerate(found):
        kind = f"c{_DASHES[index % len(_DASHES)]}"
        canvas.line(left, 10 + 18 * index, left + 26, 10 + 18 * index, kind)
        canvas.text(left + 34, 14 + 18 * index, shortened(series.name, 44), "s")
        if len(series.points) == 1:
            canvas.circle(at_x(series.points[0][0]), at_y(series.points[0][1]), 4, "m")
        else:
            canvas.path([(at_x(a), at_y(b)) for a, b in series.points], kind)
    return canvas


def reliability(title: str, bins: Sequence[tuple[float, float, int]], ece: float) -> Canvas:
    """Observed rate by confidence: on the dashed diagonal, a probability means what it says.

    bins: (mean confidence, observed rate, count); both between 0 and 1. ece: expected
    calibration error.
    """
    left, top, size = 44, 24, 200
    bottom = top + size
    told = "; ".join(f"{c:.2f} → {rate:.2f} ({count})" for c, rate, count in bins)
    canvas = Canvas(
        *(360, bottom + 40, title),
        f"Expected calibration error {ece:.4f}. Confidence → observed rate (passages): {told}.",
    )
    for tenth in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0):
        at_x, at_y = left + size * tenth, bottom - size * tenth
        canvas.line(left, at_y, left + size, at_y)
        canvas.text(left - 6, at_y + 4, label(tenth), "s", anchor="end")
        canvas.text(at_x, bottom + 18, label(tenth), "s", anchor="middle")
    canvas.line(left, bottom, left + size, top, "o")
    most = max((count for *_, count in bins), default=1)
    spots = [(left + size * c, bottom - size * rate) for c, rate, _ in bins]
    if spots:
        canvas.path(spots, "c")
    for spot, (*_, count) in zip(spots, bins, strict=True):
        # the area says how many passages stand behind a point
        canvas.circle(*spot, 3 + 5 * (count / most) ** 0.5, "m")
    canvas.text(4, 12, "observed rate", "s")
    canvas.text(left + size / 2, bottom + 36, "confidence", "s", anchor="middle")
    canvas.text(left + size + 14, top + 12, "calibration", "s")
    canvas.text(left + size + 14, top + 28, "error", "s")
    canvas.text(left + size + 14, top + 48, f"{ece:.3f}")
    return canvas
