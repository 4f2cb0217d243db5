"""The report's plots: well-formed whatever the values, and each mark where its value is."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dear.report.charts import (
    Canvas,
    Gain,
    Point,
    Series,
    curves,
    densities,
    differences,
    gains,
    label,
    numbered,
    reliability,
    ticks,
)

VALUES = st.floats(-1, 1)
SCORES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40)


def parsed(canvas: Canvas) -> ElementTree.Element:
    """The tree of the part of a page; fails for numbers that are none, and marks outside."""
    text = canvas.inline("x")
    assert not re.search(r'="-?(nan|inf)', text)
    root = ElementTree.fromstring(text)
    for node in root.iter():
        for name, most in (("x1", canvas.width), ("cx", canvas.width), ("cy", canvas.height)):
            assert -1 <= float(node.get(name, 0)) <= most + 1
    ElementTree.fromstring(canvas.document("s"))
    return root


def path_points(node: ElementTree.Element) -> list[tuple[float, float]]:
    numbers = [float(n) for n in re.findall(r"-?[\d.]+", node.get("d", ""))]
    return list(zip(numbers[::2], numbers[1::2], strict=True))


@given(st.lists(VALUES, min_size=1, max_size=300))
def test_differences_show_how_many_gain_and_lose(values: list[float]) -> None:
    canvas = differences("t", values, y="Δ")
    root = parsed(canvas)
    wins, losses = sum(v > 0 for v in values), sum(v < 0 for v in values)
    texts = [node.text for node in root.iter("text")]
    assert f"{wins} gain" in texts
    assert f"{losses} lose" in texts
    assert f"{wins} of {len(values)} queries gain, {losses} lose" in canvas.description
    shapes = {node.get("class"): path_points(node) for node in root.iter("path")}
    assert set(shapes) == ({"m"} if wins else set()) | ({"l"} if losses else set())
    # two corners a query, and both ends on the line
    for kind, number in (("m", wins), ("l", losses)):
        if kind in shapes:
            assert len(shapes[kind]) == 2 * number + 2
            line = shapes[kind][0][1]
            assert all((y <= line) if kind == "m" else (y >= line) for _, y in shapes[kind])


@given(SCORES, SCORES)
def test_densities_hold_any_scores(relevant: list[float], others: list[float]) -> None:
    root = parsed(densities("t", relevant, others))
    assert [node.get("class") for node in root.iter("path")] == ["m soft", "o"]


def test_densities_lie_where_the_scores_are() -> None:
    root = parsed(densities("t", [9.0, 9.1, 9.2] * 9, [1.0, 1.1, 1.2] * 9))
    centres = []
    for node in root.iter("path"):
        points = path_points(node)
        bottom = max(y for _, y in points)
        raised = [x for x, y in points if y < bottom]
        centres.append(sum(raised) / len(raised))
    assert centres[0] > 250 > 110 > centres[1]


@given(st.lists(st.tuples(VALUES, VALUES, st.booleans()), min_size=1, max_size=8))
def test_gains_are_right_of_zero_and_losses_left(found: list[tuple[float, float, bool]]) -> None:
    items = [
        Gain(f"<{i}>", (a + b) / 2, (min(a, b), max(a, b)), sure)
        for i, (a, b, sure) in enumerate(found)
    ]
    root = parsed(gains("t", items, x="difference"))
    (zero,) = [n for n in root.iter("line") if n.get("class") == "i" and n.get("y1") == "6"]
    for gain, dot in zip(items, root.iter("circle"), strict=True):
        side = float(dot.get("cx", 0)) - float(zero.get("x1", 0))
        assert side >= -0.11 if gain.difference >= 0 else side <= 0.11
        assert ("open" in (dot.get("class") or "")) != gain.sure


@given(st.lists(st.tuples(st.floats(0.001, 1e7), st.floats(0, 1)), min_size=1, max_size=12))
def test_numbered_points_are_all_there_and_none_covers_another(
    found: list[tuple[float, float]],
) -> None:
    points = [Point(f"p{i}", x, y) for i, (x, y) in enumerate(found)]
    canvas = numbered("t", points, x="ms", y="nDCG")
    root = ElementTree.fromstring(canvas.inline("x"))
    spots = [(float(c.get("cx", 0)), float(c.get("cy", 0))) for c in root.iter("circle")]
    assert len(spots) == len(points)
    for i, a in enumerate(spots):
        for b in spots[:i]:
            assert (a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2 > 18**2
    assert all(point.name in canvas.description for point in points)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_curves_differ_in_more_than_colour(count: int) -> None:
    series = [Series(f"s{i}", ((1, 3.0 - i), (2, 2.0), (9, 1.0))) for i in range(count)]
    root = parsed(curves("t", series, x="step", y="loss"))
    kinds = [node.get("class") for node in root.iter("path")]
    assert len(set(kinds)) == count
    first = path_points(next(root.iter("path")))
    assert first[0][0] < first[1][0] < first[2][0]
    assert first[0][1] < first[1][1] < first[2][1]  # the loss falls


def test_the_lines_of_a_grid_are_labelled_where_they_are() -> None:
    root = parsed(curves("t", [Series("s", ((1, 3.0), (9, 1.0)))], x="step", y="loss"))
    texts = list(root.iter("text"))
    rows = {
        float(n.get("y", 0)): float(n.text or "") for n in texts if n.get("text-anchor") == "end"
    }
    grid = [float(n.get("y1", 0)) for n in root.iter("line") if n.get("class") == "g"]
    assert len(rows) > 2
    assert [y - 4 for y in rows] == pytest.approx(grid)
    # the curve begins and ends where these labels say
    heights, values = zip(*sorted(rows.items()), strict=True)
    first, last = path_points(next(root.iter("path")))
    shown = [float(np.interp(y + 4, heights, values)) for _, y in (first, last)]
    assert shown == pytest.approx([3.0, 1.0], abs=0.02)
    steps = [n for n in texts if n.get("text-anchor") == "middle" and n.text != "step"]
    places = {float(n.text or ""): float(n.get("x", 0)) for n in steps}
    assert len(places) > 2
    assert sorted(places, key=places.__getitem__) == sorted(places)


def test_one_logged_point_is_a_dot() -> None:
    root = parsed(curves("t", [Series("s", ((1, 1.0),))], x="step", y="loss"))
    assert len(list(root.iter("circle"))) == 1


def test_a_perfect_probability_lies_on_the_diagonal() -> None:
    bins = [(c / 10, c / 10, c + 1) for c in range(11)]
    root = parsed(reliability("t", bins, 0.0))
    spots = [(float(c.get("cx", 0)), float(c.get("cy", 0))) for c in root.iter("circle")]
    assert len({round(x + y, 3) for x, y in spots}) == 1
    sizes = [float(c.get("r", 0)) for c in root.iter("circle")]
    assert sizes == sorted(sizes)


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_round_inside_and_a_handful(low: float, span: float) -> None:
    found = list(ticks(low, low + span))
    assert 1 <= len(found) <= 11
    assert all(
        low - 1e-6 * span - 1e-9 * abs(low) <= t <= low + span * 1.000001 + 1e-9 * abs(low)
        for t in found
    )


def test_labels_have_a_real_minus_and_no_minus_zero() -> None:
    assert [label(v) for v in (-0.0, -0.5, 1000.0)] == ["0", "−0.5", "1000"]


def test_control_characters_are_replaced() -> None:
    canvas = Canvas(10, 10, "a\x00b\ud800")
    canvas.text(0, 0, "x\x1b")
    assert "\x00" not in canvas.inline("x")
    parsed(canvas)
