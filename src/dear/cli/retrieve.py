"""`dear retrieve`."""

from __future__ import annotations

from typing import Annotated

import typer

from dear.cli.loading import steps
from dear.cli.options import expanded
from dear.cli.output import count, duration, excerpt, note, print_json, rate, summary, table
from dear.cli.progress import progress
from dear.records import count_pairs
from dear.steps.options import RetrieveOptions


@expanded
def retrieve(
    options: RetrieveOptions,
    as_json: Annotated[
        bool, typer.Option("--json", help="With --query: JSON instead of a table.")
    ] = False,
) -> None:
    """Find candidates by BM25, dense, SPLADE or hybrid, for all queries or for one."""
    if options.query is not None:
        _show(options, as_json=as_json)
        return
    assert options.output is not None
    found = steps.retrieve.retrieve(options, watch=progress)
    seconds = found.spent.seconds
    summary(
        f"{options.output}: {count(len(found.run), 'query')}, "
        f"{count(count_pairs(found.run), 'passage')} in {duration(seconds)} "
        f"({rate(found.searched, seconds)}); {found.whose}",
        options.output,
    )
    width = max(map(len, found.quality), default=0)
    for name, means in found.quality.items():
        values = "  ".join(f"{measure} {mean:.4f}" for measure, mean in means.items())
        summary(f"  {name:<{width}}  {values}", options.output)


def _show(options: RetrieveOptions, *, as_json: bool) -> None:
    rows = steps.retrieve.ask(options, watch=progress)
    if as_json:
        print_json({"query": options.query, "results": rows})
    elif not rows:
        note("nothing is found: no passage shares a word with the query")
    else:
        table(
            ("rank", "score", "id", "passage"),
            [(str(r["rank"]), f"{r['score']:.4f}", r["id"], excerpt(r["text"])) for r in rows],
            align=("right", "right", "left", "left"),
            shorten="passage",
        )
