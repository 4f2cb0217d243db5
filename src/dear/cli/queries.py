"""`dear queries`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from dear.cli.loading import steps
from dear.cli.options import expanded
from dear.cli.output import count, summary
from dear.cli.progress import progress
from dear.steps.options import QueriesOptions

if TYPE_CHECKING:
    from dear.steps.queries import QueriesMade


@expanded
def queries(options: QueriesOptions) -> None:
    """Make queries from documents, to train on: by rule, or by a language model."""
    for line in _lines(steps.queries.make_queries(options, watch=progress)):
        summary(line, options.output)


def _lines(found: QueriesMade) -> Iterator[str]:
    if found.usage is not None:
        usage = found.usage
        cached = f", {usage.kept:,} kept from before" if found.ledger is not None else ""
        cost = "" if usage.cost is None else f", ${usage.cost:.4f}"
        yield f"{count(usage.asked, 'answer')} asked for{cached}{cost} ({found.ledger})"
    if found.unreadable:
        yield f"{count(found.unreadable, 'answer')} without a query"
    if found.dropped:
        reasons = ", ".join(f"{why} {number:,}" for why, number in found.dropped.most_common())
        yield f"{count(found.dropped.total(), 'query')} dropped ({reasons})"
    yield (
        f"{found.output}: {count(len(found.kept), 'query')} made from "
        f"{count(found.passages, 'passage')}; to train on, not to evaluate on"
    )
