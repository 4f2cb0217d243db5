"""Ways to compute the same logits: each takes token ids and gives float32 scores.

padded      transformers' own forward pass over padded batches: every model, every device
packed      sequences end to end without padding: what takes position ids and plain attention
prefix      a common beginning (the query) computed once for all that share it: causal decoders
openvino    an exported graph: float32, bfloat16 or int8, on a CPU
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dear.scoring.batching import Progress
from dear.scoring.encoding import Encoded

if TYPE_CHECKING:
    from dear.scoring.loading import ScoringModel

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


def _padded(model: ScoringModel, batch_tokens: int) -> Engine:
    from dear.scoring.engines.padded import PaddedEngine

    return PaddedEngine(model, batch_tokens)


def _packed(model: ScoringModel, batch_tokens: int) -> Engine:
    from dear.scoring.engines.packed import PackedEngine

    return PackedEngine(model, batch_tokens)


def _prefix(model: ScoringModel, batch_tokens: int) -> Engine:
    from dear.scoring.engines.prefix import PrefixEngine

    return PrefixEngine(model, batch_tokens)


def _packs(model: ScoringModel) -> bool:
    from dear.scoring.engines.packed import packs

    return packs(model)


def _shares_prefix(model: ScoringModel) -> bool:
    if not model.is_decoder:
        return False
    from dear.scoring.engines.prefix import shares_prefix

    return shares_prefix(model)


ENGINES: dict[str, Callable[[ScoringModel, int], Engine]] = {
    "padded": _padded,
    "packed": _packed,
    "prefix": _prefix,
}
"""Name → what makes it of (model, tokens in a batch)."""

FITS: dict[str, Callable[[ScoringModel], bool]] = {
    "padded": lambda model: True,
    "packed": _packs,
    "prefix": _shares_prefix,
}
"""Name → whether a model's scores stay what they are; tried out on the model."""
