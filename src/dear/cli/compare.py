"""`dear compare`."""

from __future__ import annotations

from typing import Annotated

import typer

from dear.cli.compare_view import show
from dear.cli.loading import steps
from dear.cli.options import expanded
from dear.cli.output import note, print_json
from dear.steps.options import CompareOptions


@expanded
def compare(
    options: CompareOptions,
    ids: Annotated[bool, typer.Option("--ids", help="Show the passages' ids, too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON, with whole passages.")] = False,
) -> None:
    """Show two runs side by side for one query, or for a few."""
    result = steps.compare.compare(options)
    if as_json:
        print_json(result.to_dict())
    else:
        show(result, ids=ids)
    for line in result.notes:
        note(line)
