"""The scatter of speed against quality: well-formed, every name in it, points where they belong."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from dear.report.charts import Point, scatter

SVG = "{http://www.w3.org/2000/svg}"
POINTS = [
    Point("slow & good", 2.0, 0.71),
    Point("fast", 400.0, 0.70, strong=True),
    Point("poor", 40.0, 0.5),
]


def test_every_point_is_drawn_and_named() -> None:
    root = ElementTree.fromstring(scatter("Speed", "a machine", POINTS, x="pairs/s", y="nDCG"))
    texts = [t.text for t in root.iter(f"{SVG}text")]
    for wanted in ("Speed", "a machine", "pairs/s", "nDCG", *(p.name for p in POINTS)):
        assert wanted in texts
    at = [(float(c.get("cx", 0)), float(c.get("cy", 0))) for c in root.iter(f"{SVG}circle")]
    assert len(at) == 3
    best, fast, poor = at  # the best first
    assert best[0] < poor[0] < fast[0]  # speed to the right
    assert best[1] < fast[1] < poor[1]  # quality upwards
    assert len([c for c in root.iter(f"{SVG}circle") if c.get("class") == "m"]) == 1


def test_one_point_and_equal_points_are_no_error() -> None:
    for points in (POINTS[:1], [Point("a", 10.0, 0.5), Point("b", 10.0, 0.5)]):
        drawn = scatter("t", "s", points, x="x", y="y")
        assert not re.search("nan|inf", drawn)
        ElementTree.fromstring(drawn)
