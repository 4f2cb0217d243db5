"""`dear export`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dear.cli.loading import steps
from dear.cli.options import expanded
from dear.cli.output import note, summary, table
from dear.cli.progress import progress
from dear.steps.options import ExportOptions

if TYPE_CHECKING:
    from dear.steps.export import ExportResult


@expanded
def export(options: ExportOptions) -> None:
    """Write a model in a form that other programs run, with a certificate of its scores."""
    found = steps.export.export(options, watch=progress)
    if found.unchanged:
        summary(f"{found.path}: made from the same inputs; nothing was done")
        return
    summary(f"{options.output}: {options.picked_dtype} for {options.format}; README.md says how")
    if found.certificate is not None:
        summary(f"{found.certificate.program}: {found.certificate.figures}")
    if found.queries:
        _show(found)


def _show(found: ExportResult) -> None:
    for name, reason in found.failed.items():
        note(f"{name}: not measured: {reason}")
    table(
        (f"on {found.queries} queries", "pairs/s", "nDCG@10"),
        [
            (s.name, f"{s.pairs_per_s:,.1f}", "" if s.ndcg is None else f"{s.ndcg:.4f}")
            for s in found.systems
        ],
        align=("left", "right", "right"),
    )
