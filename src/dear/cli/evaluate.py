"""`dear evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dear import steps
from dear.artifacts import check_output, write_json
from dear.cli.evaluate_tables import show
from dear.cli.options import expanded
from dear.cli.output import note, print_json
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
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write everything; - is standard output."),
    ] = None,
) -> None:
    """Measure runs against judgements, and compare them."""
    to_stdout = json_file is not None and str(json_file) == "-"
    if json_file is not None and not to_stdout:
        check_output(json_file)
    result = steps.evaluate.evaluate(options)
    if json_file is not None and not to_stdout:
        write_json(json_file, result.to_dict(per_query=per_query))
    if to_stdout:
        print_json(result.to_dict(per_query=per_query))
    else:
        show(result, hurt=hurt, all_pairs=all_pairs, per_query=per_query)
    for line in result.notes:
        note(line)
