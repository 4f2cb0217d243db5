"""Runs by file or by name, and places that can be written."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import typer

SplitOption: TypeAlias = Annotated[
    str, typer.Option(metavar="SPLIT", help="Of the run and the queries.")
]


MeasureOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--measure",
        metavar="M",
        help="Such as MAP; may be repeated, the first is compared. Without it, nDCG@10 is.",
    ),
]
MinGradeOption: TypeAlias = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Lowest grade that is relevant in MRR, MAP, R: 1, unless the collection says another.",
    ),
]
FirstStageOption: TypeAlias = Annotated[
    str | None,
    typer.Option(metavar="RUN", help="The run that was reranked, where nothing beside it says."),
]
AcrossOption: TypeAlias = Annotated[
    bool, typer.Option("--across-candidates", help="Compare runs over different candidates, too.")
]
PublishedOption: TypeAlias = Annotated[
    bool, typer.Option("--published", help="Put beside what others published; not measured here.")
]
