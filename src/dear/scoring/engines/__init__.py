"""Ways to compute the same logits: each takes token ids and gives float32 scores.

padded      transformers' own forward pass over padded batches: every model, every device
packed      sequences end to end without padding: what takes position ids and plain attention
prefix      a common beginning (the query) computed once for all that share it: causal decoders
openvino    an exported graph: float32, bfloat16 or int8, on a CPU
onnx        the same, by ONNX Runtime: float32 or int8
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dear.lazy import submodules
from dear.scoring.batching import Progress
from dear.scoring.encoding import Encoded

if TYPE_CHECKING:
    from dear.scoring.engines import table as table

__getattr__ = submodules(__name__, "table")

EngineName: TypeAlias = Literal["auto", "padded", "packed", "prefix"]


class Engine(Protocol):
    """One way through the model."""

    def run(
        self,
        encoded: Sequence[Encoded],
        progress: Progress | None = None,
        total: int | None = None,
    ) -> NDArray[np.float32]:
        """float32 (n,) logits in the order of `encoded`.

        progress: called now and then, in proportion to `total` (n where None).
        """
        ...
