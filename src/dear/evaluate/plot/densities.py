"""How scores of relevant passages lie against those of the others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dear.evaluate.plot.canvas import Canvas, label, ticks

_BINS = 32


def densities(
    title: str, relevant: Sequence[float], others: Sequence[float], *, x: str = "score"
) -> Canvas:
    """Two histograms, each of area 1: relevant passages filled, the others a dashed outline.

    Both hold a value at least. The outermost half per cent on either side is left out, so that
    one wild score does not squeeze the rest.
    """
    both = np.asarray([*relevant, *others], dtype=np.float64)
    low, high = (float(v) for v in np.quantile(both, (0.005, 0.995)))
    if high <= low:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, _BINS + 1)
    mine, theirs = (np.histogram(v, edges)[0] / len(v) for v in (relevant, others))
    tallest = max(float(mine.max()), float(theirs.max()), 1e-12)
    left, top, width, height = 12, 30, 336, 140
    bottom = top + height
    canvas = Canvas(
        *(360, bottom + 40, title),
        f"Median score of {len(relevant)} relevant passages: {np.median(relevant):.4g}; "
        f"of {len(others)} others: {np.median(others):.4g}.",
    )

    def steps(shares: Sequence[float]) -> list[tuple[float, float]]:
        outline = [(float(left), float(bottom))]
        for index, share in enumerate(shares):
            y = bottom - height * share / tallest
            outline += [
                (left + width * index / _BINS, y),
                (left + width * (index + 1) / _BINS, y),
            ]
        return [*outline, (float(left + width), float(bottom))]

    canvas.path(steps(mine.tolist()), "m soft", closed=True)
    canvas.path(steps(theirs.tolist()), "o")
    canvas.line(left, bottom, left + width, bottom, "i")
    for value in ticks(low, high):
        at = left + width * (value - low) / (high - low)
        canvas.line(at, bottom, at, bottom + 4, "i")
        canvas.text(at, bottom + 18, label(value), "s", anchor="middle")
    canvas.text(left + width / 2, bottom + 36, x, "s", anchor="middle")
    canvas.rect(left, 6, 14, 10, "m soft")
    canvas.text(left + 20, 15, f"relevant ({len(relevant):,})", "s")
    canvas.line(left + 160, 11, left + 184, 11, "o")
    canvas.text(left + 190, 15, f"others ({len(others):,})", "s")
    return canvas
