"""Whether a model reads a collection's passages to their end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dear.checkpoints.registry import locate
from dear.checkpoints.threads import tokenize
from dear.checkpoints.tokenizer import load_tokenizer
from dear.data.collections import Collection
from dear.notices import warn
from dear.records import Candidates, Passage, every_nth

_SAMPLE = 200
"""Passages, or pairs, that are looked at."""
_CHARACTERS = 50_000
"""Of a passage that is tokenised for this: more than any model of today reads."""

FEW_CUT = 0.1
"""A share of cut passages that is told nobody."""


def longer_than(
    corpus: Mapping[str, Passage], passage_ids: Sequence[str], base: str, tokens: int
) -> float:
    """Which share of the passages, of which a sample is looked at, has more tokens than that.

    base: the model whose tokens they are.
    """
    texts = [corpus[i].full_text[:_CHARACTERS] for i in every_nth(passage_ids, _SAMPLE)]
    read = tokenize(
        load_tokenizer(locate(base)),
        texts,
        add_special_tokens=False,
        return_attention_mask=False,
        verbose=False,
    )
    return sum(len(ids) > tokens for ids in read["input_ids"]) / max(1, len(texts))


def tell_of_cuts(collection: Collection, model: Any, candidates: Sequence[Candidates]) -> None:
    """A notice where many of the candidates, of which a sample is looked at, are longer than the
    model reads them, and how to split them. Nothing of models that do not say."""
    cut_pairs = getattr(model, "cut_pairs", None)
    if cut_pairs is None:
        return
    each = max(1, _SAMPLE // max(1, len(candidates)))
    pairs = [
        (one.query.text, passage.full_text[:_CHARACTERS])
        for one in every_nth(candidates, _SAMPLE)
        for passage in every_nth(one.passages, each)
    ]
    share = sum(cut_pairs(pairs)) / max(1, len(pairs))
    if share < FEW_CUT:
        return
    made = "with fewer --tokens" if collection.documents is not None else "--output FOLDER"
    warn(
        f"{model.name} does not read {share:.0%} of the passages to their end (of {len(pairs):,} "
        f"that were looked at); `dear split {collection.folder or collection.name}` {made} makes "
        "passages that fit"
    )
