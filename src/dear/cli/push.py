"""`dear push`."""

from __future__ import annotations

from dear.cli.loading import steps
from dear.cli.options import expanded
from dear.cli.output import note, summary
from dear.steps.options import PushOptions


@expanded
def push(options: PushOptions) -> None:
    """Publish a model on the hub, with a card that says what it is and what it is worth."""
    found = steps.push.push(options)
    if found.left_out:
        note(f"left out: {', '.join(found.left_out)}")
    if found.url is not None:
        summary(f"{found.url}: {', '.join(found.files)}")
    else:
        summary(f"{found.folder}: nothing was uploaded: {', '.join(found.files)}")
