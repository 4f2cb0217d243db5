"""Ways to compute the same logits: each takes token ids and gives float32 scores.

padded      transformers' own forward pass over padded batches: every model, every device
prefix      a common beginning (the query) computed once for all that share it: causal decoders
openvino    an exported graph: float32, bfloat16 or int8, on a CPU
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dear.models.batching import Progress
from dear.models.encoding import Encoded


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
