"""Shapes on a plane, written as a document of their own or as a part of a page."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from xml.sax.saxutils import escape, quoteattr

# s small text, g grid, i interval, b plain, m accent, l loss, bg background, o outline only
_STYLE = (
    "text{font:14px system-ui,sans-serif;fill:#1f2328}.s{fill:#59636e;font-size:12px}"
    ".g{stroke:#d1d9e0}.i{stroke:#59636e;stroke-width:1.5}.b{fill:#8c959f}.m{fill:#0969da}"
    ".l{fill:#bc4c00}.n{fill:#fff;font-size:11px}.c{fill:none;stroke:#0969da;stroke-width:2}"
    ".o{fill:none;stroke:#59636e;stroke-width:1.5;stroke-dasharray:4 3}.soft{fill-opacity:.45}"
    ".k2{stroke:#bc4c00;stroke-dasharray:7 4}.k3{stroke:#59636e;stroke-dasharray:2 3}"
    ".k4{stroke:#1f2328;stroke-dasharray:9 3 2 3}"
    ".bg{fill:#fff}@media(prefers-color-scheme:dark){text{fill:#e6edf3}.s{fill:#9198a1}"
    ".g{stroke:#3d444d}.i{stroke:#9198a1}.b{fill:#656c76}.m{fill:#4493f8}.l{fill:#db6d28}"
    ".n{fill:#0d1117}.c{stroke:#4493f8}.o{stroke:#9198a1}.bg{fill:#0d1117}.k2{stroke:#db6d28}"
    ".k3{stroke:#9198a1}.k4{stroke:#e6edf3}}"
)
HEAD = 46
"""Height of title and subtitle above the plot, in a document of its own."""

_CONTROLS = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def plain(text: str) -> str:
    """Without the characters that neither XML nor HTML may hold."""
    return _CONTROLS.sub("\ufffd", text)


class Canvas:
    """Shapes with a class each (`kind`), the origin at the top left.

    title: what it is.  description: what is to be seen, for those who do not see it.
    """

    def __init__(self, width: int, height: int, title: str, description: str = "") -> None:
        self.width, self.height = width, height
        self.title, self.description = plain(title), plain(description)
        self._parts: list[str] = []

    def text(self, x: float, y: float, text: str, kind: str = "", *, anchor: str = "start") -> None:
        named = f' class="{kind}"' if kind else ""
        placed = "" if anchor == "start" else f' text-anchor="{anchor}"'
        self._parts.append(
            f'<text{named} x="{_n(x)}" y="{_n(y)}"{placed}>{escape(plain(text))}</text>'
        )

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str = "g") -> None:
        self._parts.append(
            f'<line class="{kind}" x1="{_n(x1)}" y1="{_n(y1)}" x2="{_n(x2)}" y2="{_n(y2)}"/>'
        )

    def rect(
        self, x: float, y: float, width: float, height: float, kind: str, *, rounded: bool = False
    ) -> None:
        corner = ' rx="2"' if rounded else ""
        self._parts.append(
            f'<rect class="{kind}" x="{_n(x)}" y="{_n(y)}" width="{_n(width)}" '
            f'height="{_n(height)}"{corner}/>'
        )

    def circle(self, x: float, y: float, r: float, kind: str) -> None:
        self._parts.append(f'<circle class="{kind}" cx="{_n(x)}" cy="{_n(y)}" r="{_n(r)}"/>')

    def path(self, points: list[tuple[float, float]], kind: str, *, closed: bool = False) -> None:
        """Straight lines from point to point."""
        steps = " ".join(f"{_n(x)} {_n(y)}" for x, y in points)
        self._parts.append(f'<path class="{kind}" d="M{steps}{"Z" if closed else ""}"/>')

    def document(self, subtitle: str = "") -> str:
        """A file of its own, with title and subtitle above the plot."""
        width, height = self.width, self.height + HEAD
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
            f'viewBox="0 0 {width} {height}" role="img" aria-label={quoteattr(self.title)}>',
            f"<style>{_STYLE}</style>",
            f'<rect class="bg" width="{width}" height="{height}"/>',
            f'<text x="12" y="20" font-weight="600">{escape(self.title)}</text>',
            f'<text x="12" y="38" class="s">{escape(plain(subtitle))}</text>',
            f'<g transform="translate(0 {HEAD})">',
            *self._parts,
            "</g>",
            "</svg>",
        ]
        return "\n".join(parts) + "\n"

    def inline(self, name: str) -> str:
        """A part of a page, whose style sheet colours it. name: an id that is used once there."""
        parts = [
            f'<svg class="plot" viewBox="0 0 {self.width} {self.height}" role="img" '
            f'aria-labelledby="{name}-t {name}-d">',
            f'<title id="{name}-t">{escape(self.title)}</title>',
            f'<desc id="{name}-d">{escape(self.description)}</desc>',
            *self._parts,
            "</svg>",
        ]
        return "".join(parts)


def ticks(low: float, high: float, about: int = 5) -> Iterator[float]:
    """Round numbers from low to high, roughly `about` of them."""
    step = nice_step(high - low, about)
    for index in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1):
        yield index * step


def nice_step(span: float, about: int = 5) -> float:
    """1, 2 or 5 times a power of ten; near a span of `about` steps."""
    raw = max(span, 1e-12) / about
    power: float = 10.0 ** math.floor(math.log10(raw))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= raw * (1 - 1e-9))


def label(value: float) -> str:
    """A tick's number: short, and never -0."""
    text = f"{value:.6g}"
    return "0" if text == "-0" else text.replace("-", "−")


def shortened(text: str, limit: int) -> str:
    """Cut in the middle: names of systems differ at both ends."""
    if len(text) <= limit:
        return text
    half = (limit - 1) // 2
    return f"{text[:half]}…{text[-half:]}"


def _n(value: float) -> str:
    text = f"{round(value, 1):.1f}".removesuffix(".0")
    return "0" if text == "-0" else text
