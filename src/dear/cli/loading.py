"""The steps, loaded on first use; what they load stays out of the garbage collector's sight.

Reading a collection makes many objects, and each garbage collection would look at torch's, too,
which live as long as the process.
"""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any

import dear.steps

if TYPE_CHECKING:
    from dear import steps as steps
else:

    class _Steps:
        def __getattr__(self, name: str) -> Any:
            found = getattr(dear.steps, name)
            gc.freeze()
            return found

    steps = _Steps()
