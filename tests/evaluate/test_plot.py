"""A plot is a well-formed SVG whose lengths are its values."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from dear.report.charts import Bar, bars

SVG = "{http://www.w3.org/2000/svg}"


def test_lengths_are_in_the_ratio_of_the_values() -> None:
    root = ElementTree.fromstring(bars("t", "s", [Bar("a", 0.2), Bar("b", 0.4, (0.3, 0.5), True)]))
    a, b = [r for r in root.iter(f"{SVG}rect") if r.get("class") in ("b", "m")]
    assert float(b.get("width", 0)) == pytest.approx(2 * float(a.get("width", 0)), abs=0.2)
    assert b.get("class") == "m"


def test_names_are_escaped_and_values_written() -> None:
    text = bars("<t>", "s & s", [Bar("x < y", 0.123456)])
    root = ElementTree.fromstring(text)
    written = [node.text for node in root.iter(f"{SVG}text")]
    assert "x < y" in written
    assert "0.123" in written


def test_everything_lies_inside_the_picture() -> None:
    root = ElementTree.fromstring(bars("t", "s", [Bar("a", 1.0, (0.9, 1.0))]))
    width = float(root.get("width", 0))
    ends = [float(line.get("x2", 0)) for line in root.iter(f"{SVG}line")]
    ends += [float(n.get("x", 0)) + float(n.get("width", 0)) for n in root.iter(f"{SVG}rect")]
    assert len(ends) > 2
    assert max(ends) <= width


def test_names_have_room_left_of_their_bars() -> None:
    root = ElementTree.fromstring(bars("t", "s", [Bar("zero-shot + first stage", 0.5)]))
    (bar,) = [r for r in root.iter(f"{SVG}rect") if r.get("class") == "b"]
    (name,) = [t for t in root.iter(f"{SVG}text") if t.get("text-anchor") == "end"]
    assert 150 < float(name.get("x", 0)) < float(bar.get("x", 0))
