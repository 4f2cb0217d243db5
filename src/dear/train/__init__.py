"""Groups → checkpoint: teachers, students, listwise models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dear.lazy import submodules

if TYPE_CHECKING:
    from dear.train import list_trainer as list_trainer

__getattr__ = submodules(__name__, "list_trainer")
