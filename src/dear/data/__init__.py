"""Files ↔ records: collections, formats, labels, groups, tables on disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dear.lazy import submodules

if TYPE_CHECKING:
    from dear.data import inputs as inputs
    from dear.data import passage_table as passage_table

__getattr__ = submodules(__name__, "inputs", "passage_table")
