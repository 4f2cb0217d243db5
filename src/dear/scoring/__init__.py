"""Pairs → scores: encoding, batching, engines, and everything that scores a pair."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dear.lazy import submodules

if TYPE_CHECKING:
    from dear.scoring import biencoder as biencoder
    from dear.scoring import engines as engines
    from dear.scoring import explaining as explaining
    from dear.scoring import loading as loading
    from dear.scoring import opening as opening
    from dear.scoring import revisions as revisions
    from dear.scoring import sentence_transformers_library as sentence_transformers_library
    from dear.scoring import splade as splade
    from dear.scoring import workers as workers
    from dear.scoring import zero_shot as zero_shot

__getattr__ = submodules(
    __name__,
    *("biencoder", "engines", "explaining", "loading", "opening", "revisions"),
    *("sentence_transformers_library", "splade", "workers", "zero_shot"),
)
