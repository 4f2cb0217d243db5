"""Whether a model reads a collection's passages to their end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dear.data.collections import Collection
from dear.notices import warn
from dear.records import Candidates, every_nth

_PAIRS = 200
_CHARACTERS = 50_000
"""Of a passage that is tokenised for this: more than any model of today reads."""

_FEW = 0.1
"""A share of cut passages that is told nobody."""


def tell_of_cuts(collection: Collection, model: Any, candidates: Sequence[Candidates]) -> None:
    """A notice where many of the candidates, of which a sample is looked at, are longer than the
    model reads them, and how to split them. Nothing of models that do not say."""
    cut_pairs = getattr(model, "cut_pairs", None)
    if cut_pairs is None:
        return
    each = max(1, _PAIRS // max(1, len(candidates)))
    pairs = [
        (one.query.text, passage.full_text[:_CHARACTERS])
        for one in every_nth(candidates, _PAIRS)
        for passage in every_nth(one.passages, each)
    ]
    share = sum(cut_pairs(pairs)) / max(1, len(pairs))
    if share < _FEW:
        return
    made = "with fewer --tokens" if collection.documents is not None else "--output FOLDER"
    warn(
        f"{model.name} does not read {share:.0%} of the passages to their end (of {len(pairs):,} "
        f"that were looked at); `dear split {collection.folder or collection.name}` {made} makes "
        "passages that fit"
    )
