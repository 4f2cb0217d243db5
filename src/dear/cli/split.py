"""`dear split`."""

from __future__ import annotations

from dear.cli.loading import steps
from dear.cli.options import expanded
from dear.cli.output import count, summary
from dear.cli.progress import progress
from dear.steps.options import SplitOptions


@expanded
def split(options: SplitOptions) -> None:
    """Split documents into passages that a model reads whole: a collection to another."""
    found = steps.split.split(options, watch=progress)
    summary(
        f"{found.output}: {count(found.documents, 'document')}, {found.divided:,} of them split, "
        f"{count(found.passages, 'passage')} of at most {options.tokens:,} tokens "
        f"({found.measured_by})"
    )
