"""Rankings × judgements → numbers, and whether two of those numbers differ."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dear.lazy import submodules

if TYPE_CHECKING:
    from dear.evaluate import calibration as calibration

__getattr__ = submodules(__name__, "calibration")
