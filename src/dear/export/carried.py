"""What goes along with a model into another form of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from dear.checkpoints.contract import ScoringContract
from dear.errors import DearError
from dear.evaluate.calibration import CALIBRATION_FILE, Calibration
from dear.notices import warn
from dear.scoring.loading import ScoringModel
from dear.scoring.revisions import require_revision, revision_named


def carry_calibration(model: ScoringModel, folder: Path) -> None:
    """The map from scores to probabilities beside `model`, for the same scores out of `folder`,
    whose files are complete. One that is not of these weights stays behind, which is told."""
    path = Path(model.name) / CALIBRATION_FILE
    contract = ScoringContract.load(folder)
    if contract is None or not path.is_file():
        return
    try:
        found = Calibration.load(path)
        require_revision("calibration: fitted on", found.revision, model)
        found.require(model.contract.to_dict(), model=model.name)
    except DearError as error:
        warn(f"the map to probabilities is left behind: {error}")
        return
    replace(
        found,
        revision=revision_named(str(folder)),
        contract=contract.to_dict(),
        fitted_on={**found.fitted_on, "carried_from": found.revision},
    ).save(folder)
