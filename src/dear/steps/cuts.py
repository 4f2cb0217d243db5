"""Whether a model reads a collection's passages to their end, and how much of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dear import checkpoints
from dear.checkpoints.registry import locate
from dear.checkpoints.threads import tokenize
from dear.data.collections import Collection
from dear.notices import warn
from dear.recipes import PairRecipe
from dear.records import Candidates, Passage, every_nth

if TYPE_CHECKING:
    from dear.train.examples import Example

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
    lengths = _lengths(texts, base)
    return sum(length > tokens for length in lengths) / max(1, len(lengths))


def tokens_of_a_pair(recipe: PairRecipe, examples: Sequence[Example]) -> int:
    """What a training reads for each pair, in the mean of a sample: the passage, and the query, of
    which a bi-encoder reads one for all passages of a group."""
    sample = every_nth(examples, _SAMPLE)
    limits, base = recipe.contract, recipe.model.base
    passages = _lengths([p[:_CHARACTERS] for e in sample for p in e.passages], base)
    passage = sum(min(n, limits.max_passage_tokens) for n in passages) / len(passages)
    queries = _lengths([e.query for e in sample], base)
    query = sum(min(n, limits.max_query_tokens) for n in queries) / len(queries)
    return round(passage + query / (recipe.groups.size if recipe.kind == "biencoder" else 1))


def _lengths(texts: Sequence[str], base: str) -> list[int]:
    """Tokens of each text, without special ones."""
    read = tokenize(
        checkpoints.tokenizer.load_tokenizer(locate(base)),
        texts,
        add_special_tokens=False,
        return_attention_mask=False,
        verbose=False,
    )
    return [len(ids) for ids in read["input_ids"]]


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
