"""`dear evaluate`."""

from __future__ import annotations

from typing import Annotated

import typer

from dear.cli.evaluate_tables import show
from dear.cli.loading import steps
from dear.cli.options import expanded
from dear.cli.output import JsonFile, JsonOutput, note
from dear.steps.options import EvaluateOptions


@expanded
def evaluate(
    options: EvaluateOptions,
    hurt: Annotated[
        int,
        typer.Option(min=0, metavar="N", help="Show the N queries hurt most by each run."),
    ] = 5,
    all_pairs: Annotated[
        bool,
        typer.Option(
            "--all-pairs", help="Of more than four runs, show every pair, not only first stages'."
        ),
    ] = False,
    per_query: Annotated[
        bool, typer.Option("--per-query", help="Every query's values of the compared measure.")
    ] = False,
    json_file: JsonFile = None,
) -> None:
    """Measure runs against judgements, and compare them."""
    json = JsonOutput(json_file)
    result = steps.evaluate.evaluate(options)
    json.give(result.to_dict(per_query=per_query))
    if not json.instead:
        show(result, hurt=hurt, all_pairs=all_pairs, per_query=per_query)
    for line in result.notes:
        note(line)
