"""`dear rank`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dear.cli.loading import steps
from dear.cli.options import expanded
from dear.cli.output import count, duration, rate, summary
from dear.cli.progress import progress
from dear.steps.options import RankOptions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dear.rank.ranker import Totals
    from dear.steps.answers import Answers
    from dear.steps.fusing import FuseWeight
    from dear.steps.rank import Ranked


@expanded
def rank(options: RankOptions) -> None:
    """Rerank a run with a model, with a listwise backend, or with one behind the other."""
    for line in _lines(options, steps.rank.rank(options, watch=progress)):
        summary(line, options.output)


def _lines(options: RankOptions, found: Ranked) -> Iterator[str]:
    if found.fused is not None and found.fused.means:
        yield _weight_line(found.fused)
    if found.answers is not None:
        yield _windows_line(found.totals)
        if usage := _usage_line(found.answers):
            yield usage
    cost = found.totals.cost
    pairs = f", {count(cost.pairs, 'pair')}" if cost.pairs else ""
    only_pairs = cost.pairs and found.answers is None
    pace = f" ({rate(cost.pairs, cost.pointwise_s)})" if only_pairs else ""
    seconds = duration(cost.pointwise_s + cost.listwise_s)
    yield f"{options.output}: {count(len(found.run), 'query')}{pairs} in {seconds}{pace}"


def _weight_line(fused: FuseWeight) -> str:
    tried = "  ".join(f"{weight:g}: {mean:.4f}" for weight, mean in fused.means.items())
    queries = count(fused.queries, "query")
    return f"fuse weight {fused.weight:g}, by nDCG@10 of {queries} of {fused.split}\n  {tried}"


def _windows_line(totals: Totals) -> str:
    kinds = ", ".join(f"{kind} {number:,}" for kind, number in totals.to_dict()["mends"].items())
    return (
        f"{count(totals.cost.windows, 'window')}, {totals.cost.mended_windows:,} of them mended"
        f"{f' ({kinds})' if kinds else ''}, {totals.unreadable:,} without a ranking"
    )


def _usage_line(answers: Answers) -> str | None:
    """What the answers took, where that is known."""
    usage, ledger = answers.usage, answers.ledger
    if usage is None:
        return None
    cached = f", {usage.kept:,} kept from before" if ledger is not None else ""
    cost = "" if usage.cost is None else f", ${usage.cost:.4f}"
    return (
        f"{count(usage.asked, 'answer')} asked for{cached}; {usage.prompt_tokens:,} tokens in, "
        f"{usage.completion_tokens:,} out{cost}{f' ({ledger})' if ledger is not None else ''}"
    )
