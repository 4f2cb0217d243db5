"""The engines by name, and which models each of them suits."""

from __future__ import annotations

from collections.abc import Callable

from dear.scoring.engines import Engine
from dear.scoring.engines.packed import PackedEngine, packs
from dear.scoring.engines.padded import PaddedEngine
from dear.scoring.engines.prefix import PrefixEngine, shares_prefix
from dear.scoring.loading import ScoringModel

ENGINES: dict[str, Callable[[ScoringModel, int], Engine]] = {
    "padded": PaddedEngine,
    "packed": PackedEngine,
    "prefix": PrefixEngine,
}
"""Name → what makes it of (model, tokens in a batch)."""

FITS: dict[str, Callable[[ScoringModel], bool]] = {
    "padded": lambda model: True,
    "packed": packs,
    "prefix": lambda model: model.is_decoder and shares_prefix(model),
}
"""Name → whether a model's scores stay what they are; tried out on the model."""
