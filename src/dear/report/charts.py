"""Charts as SVG text: they open anywhere, need no library, and follow light and dark."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

import numpy as np

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
    step = _nice_step(high - low, about)
    for index in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1):
        yield index * step


def _nice_step(span: float, about: int = 5) -> float:
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
