"""Runs by file or by name, and places that can be written."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import typer

RunOption: TypeAlias = Annotated[
    str, typer.Option(metavar="RUN", help="A run's file, or one of the collection's own runs.")
]
SplitOption: TypeAlias = Annotated[
    str, typer.Option(metavar="SPLIT", help="Of the run and the queries.")
]


MinGradeOption: TypeAlias = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Lowest grade that is relevant in MRR, MAP, R: 1, unless the collection says another.",
    ),
]
