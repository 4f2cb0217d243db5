"""`dear calibrate`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dear.cli.loading import steps
from dear.cli.options import expanded
from dear.cli.output import count, note, summary, table
from dear.cli.progress import progress
from dear.steps.options import CalibrateOptions

if TYPE_CHECKING:
    from dear.steps.calibrate import CalibratedModel

FEW_RELEVANT = 50
"""A map that is fitted on fewer relevant pairs is called rough."""


@expanded
def calibrate(options: CalibrateOptions) -> None:
    """Fit a map from scores to probabilities of relevance on judged queries."""
    found = steps.calibrate.calibrate(options, watch=progress)
    if found.unchanged:
        summary(f"{found.path}: made from the same inputs; nothing was done")
    else:
        _show(found, elsewhere=options.output is not None)


def _show(made: CalibratedModel, *, elsewhere: bool) -> None:
    found, path = made.calibration, made.path
    before, after = found.before, found.after
    table(
        (f"{found.kind}, cross-validated", "sigmoid", "map"),
        [
            (name, f"{getattr(before, key):.4f}", f"{getattr(after, key):.4f}")
            for name, key in (
                ("expected calibration error", "ece"),
                ("the same, equal mass", "ece_mass"),
                ("maximum calibration error", "mce"),
                ("Brier score", "brier"),
                ("negative log likelihood", "nll"),
            )
        ],
        align=("left", "right", "right"),
    )
    where = f" (use it with --calibration {path.parent})" if elsewhere else ""
    queries = count(int(found.fitted_on["queries"]), "query")
    summary(
        f"{path}: fitted on {count(after.pairs, 'pair')} of {queries}, "
        f"{after.relevant:,} of them relevant{where}"
    )
    if after.relevant < FEW_RELEVANT:
        note(f"only {count(after.relevant, 'relevant pair')}: a rough map; take more --queries")
