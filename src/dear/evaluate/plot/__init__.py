"""Plots as SVG text: they open anywhere, need no library, and follow light and dark."""

from dear.evaluate.plot.bars import Bar, bars
from dear.evaluate.plot.canvas import Canvas
from dear.evaluate.plot.curves import Series, curves, reliability
from dear.evaluate.plot.densities import densities
from dear.evaluate.plot.differences import Gain, differences, gains
from dear.evaluate.plot.scatter import Point, numbered, scatter

__all__ = [
    "Bar",
    "Canvas",
    "Gain",
    "Point",
    "Series",
    "bars",
    "curves",
    "densities",
    "differences",
    "gains",
    "numbered",
    "reliability",
    "scatter",
]
