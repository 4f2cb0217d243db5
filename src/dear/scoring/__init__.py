"""Pairs → scores: encoding, batching, engines, and everything that scores a pair."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dear.lazy import submodules

if TYPE_CHECKING:
    from dear.scoring import opening as opening
    from dear.scoring import revisions as revisions

__getattr__ = submodules(__name__, "opening", "revisions")
