"""`dear retrieve`."""

from __future__ import annotations

from dear.cli.loading import steps
from dear.cli.options import expanded
from dear.cli.output import count, duration, rate, summary
from dear.cli.progress import progress
from dear.records import count_pairs
from dear.steps.options import RetrieveOptions


@expanded
def retrieve(options: RetrieveOptions) -> None:
    """Find candidates by BM25, dense, SPLADE or hybrid: a collection to a run."""
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
