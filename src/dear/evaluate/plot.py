"""Plots as SVG text: they open anywhere, need no library, and follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

_STYLE = (
    "text{font:14px system-ui,sans-serif;fill:#1f2328}.s{fill:#59636e;font-size:12px}"
    ".g{stroke:#d1d9e0}.i{stroke:#59636e;stroke-width:1.5}.b{fill:#8c959f}.m{fill:#0969da}"
    ".bg{fill:#fff}@media(prefers-color-scheme:dark){text{fill:#e6edf3}.s{fill:#9198a1}"
    ".g{stroke:#3d444d}.i{stroke:#9198a1}.b{fill:#656c76}.m{fill:#4493f8}.bg{fill:#0d1117}}"
)
_LEFT, _WIDTH, _RIGHT, _ROW, _TOP = 190, 400, 70, 34, 46


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
    height = _TOP + _ROW * len(found) + 34
    total = _LEFT + _WIDTH + _RIGHT

    def x(value: float) -> float:
        return round(_LEFT + _WIDTH * value / top, 1)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{total}" height="{height}" '
        f'viewBox="0 0 {total} {height}" role="img" aria-label="{escape(title)}">',
        f"<style>{_STYLE}</style>",
        f'<rect class="bg" width="{total}" height="{height}"/>',
        f'<text x="12" y="20" font-weight="600">{escape(title)}</text>',
        f'<text x="12" y="38" class="s">{escape(subtitle)}</text>',
    ]
    bottom = _TOP + _ROW * len(found) + 6
    for tenth in range(round(top * 10) + 1):
        at = x(tenth / 10)
        parts.append(f'<line class="g" x1="{at}" y1="{_TOP}" x2="{at}" y2="{bottom}"/>')
        parts.append(
            f'<text class="s" x="{at}" y="{bottom + 16}" text-anchor="middle">'
            f"{tenth / 10:.1f}</text>"
        )
    for index, bar in enumerate(found):
        y = _TOP + _ROW * index + 8
        middle = y + 10
        parts.append(
            f'<text x="{_LEFT - 10}" y="{middle + 5}" text-anchor="end">{escape(bar.name)}</text>'
        )
        width = round(x(bar.value) - _LEFT, 1)
        colour = "m" if bar.strong else "b"
        parts.append(
            f'<rect class="{colour}" x="{_LEFT}" y="{y}" width="{width}" height="20" rx="2"/>'
        )
        edge = x(bar.value)
        if bar.interval is not None:
            low, edge = x(bar.interval[0]), x(bar.interval[1])
            parts.append(f'<line class="i" x1="{low}" y1="{middle}" x2="{edge}" y2="{middle}"/>')
        parts.append(f'<text x="{edge + 8}" y="{middle + 5}">{bar.value:.3f}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


@dataclass(frozen=True, slots=True)
class Point:
    """One system of a scatter. strong: drawn in the accent colour."""

    name: str
    x: float
    y: float
    strong: bool = False


def scatter(title: str, subtitle: str, found: Sequence[Point], *, x: str, y: str) -> str:
    """Points with their names, x on a logarithmic scale (above 0), as an SVG document."""
    left, width, top, height, total = 70, 560, 56, 300, 880
    low = 10 ** math.floor(math.log10(min(p.x for p in found)))
    high = 10 ** math.ceil(math.log10(max(p.x for p in found) * 1.0001))
    bottom_y = math.floor(min(p.y for p in found) * 20 - 0.5) / 20
    top_y = math.ceil(max(p.y for p in found) * 20 + 0.5) / 20

    def at_x(value: float) -> float:
        return round(left + width * math.log(value / low) / math.log(high / low), 1)

    def at_y(value: float) -> float:
        return round(top + height * (top_y - value) / (top_y - bottom_y), 1)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{total}" height="{top + height + 56}" '
        f'viewBox="0 0 {total} {top + height + 56}" role="img" aria-label="{escape(title)}">',
        f"<style>{_STYLE}</style>",
        f'<rect class="bg" width="{total}" height="{top + height + 56}"/>',
        f'<text x="12" y="20" font-weight="600">{escape(title)}</text>',
        f'<text x="12" y="38" class="s">{escape(subtitle)}</text>',
    ]
    for power in range(round(math.log10(low)), round(math.log10(high)) + 1):
        here = at_x(10**power)
        parts.append(f'<line class="g" x1="{here}" y1="{top}" x2="{here}" y2="{top + height}"/>')
        parts.append(
            f'<text class="s" x="{here}" y="{top + height + 18}" text-anchor="middle">'
            f"{10**power:g}</text>"
        )
    for step in range(round((top_y - bottom_y) * 20) + 1):
        value = bottom_y + step / 20
        here = at_y(value)
        parts.append(f'<line class="g" x1="{left}" y1="{here}" x2="{left + width}" y2="{here}"/>')
        parts.append(
            f'<text class="s" x="{left - 8}" y="{here + 4}" text-anchor="end">{value:.2f}</text>'
        )
    parts.append(
        f'<text class="s" x="{left + width / 2}" y="{top + height + 40}" text-anchor="middle">'
        f"{escape(x)}</text>"
    )
    parts.append(f'<text class="s" x="12" y="{top - 4}">{escape(y)}</text>')
    label_y = -1000.0
    for point in sorted(found, key=lambda p: (-p.y, p.x)):
        here_x, here_y = at_x(point.x), at_y(point.y)
        # names stand on the right, one below the other, each tied to its point
        label_y = max(here_y, label_y + 18)
        colour = "m" if point.strong else "b"
        parts.append(
            f'<line class="g" x1="{here_x}" y1="{here_y}" x2="{left + width + 8}" y2="{label_y}"/>'
        )
        parts.append(f'<circle class="{colour}" cx="{here_x}" cy="{here_y}" r="6"/>')
        parts.append(
            f'<text class="s" x="{left + width + 12}" y="{label_y + 4}">{escape(point.name)}</text>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"
