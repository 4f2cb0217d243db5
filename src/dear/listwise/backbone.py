"""One language model in memory, two rerankers on it: by pairs and by lists.

The base is loaded once, as a causal model. The one-logit model is a shell around the same body,
with the head of the pointwise checkpoint. What differs are LoRA adapters: each forward pass begins
with its own (dear.checkpoints.threads), so threads may use both sides at once.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForSequenceClassification

from dear.checkpoints.contract import DType
from dear.checkpoints.contract_resolution import contract_of
from dear.checkpoints.files import revision_of
from dear.checkpoints.heads import float32_head, pool_by_mask
from dear.checkpoints.threads import LOADING, before_passes
from dear.errors import ConfigError
from dear.listwise.loading import (
    ListModel,
    LiveAdapters,
    Side,
    common_base,
    finish,
    has_tokenizer,
    head_of,
    load_causal,
    share_base,
    side_of,
)
from dear.listwise.reader import ListReader
from dear.scoring.loading import Reader, ScoringModel, check_length, load_tokenizer, mend_padding
from dear.scoring.scorer import Scorer

__all__ = ["Backbone", "share_base"]


class Backbone:
    """Two rerankers on one set of weights.

    pairs: scores pairs.  lists: reads windows.

    pointwise: a LoRA adapter with its head, or the one-logit checkpoint that the other sits on.
    lists: a listwise LoRA adapter, or the causal model that the other sits on.
    options: of the ListReader.
    ConfigError: the two have different bases.
    """

    def __init__(
        self,
        pointwise: str | Path,
        lists: str | Path,
        *,
        dtype: DType = "auto",
        device: str = "auto",
        batch_tokens: int | None = None,
        **options: Any,
    ) -> None:
        sides = side_of(pointwise), side_of(lists)
        base = common_base(*sides)
        reader = load_causal(base, dtype, device)
        adapters = LiveAdapters(reader.model, sides[0], sides[1])
        tokenizers = _tokenizers(sides, reader)
        scoring = _scoring_model(reader, sides[0], tokenizers[0], str(pointwise))
        listing = _list_model(reader, sides[1], tokenizers[1], str(lists))
        before_passes(scoring.model, partial(adapters.switch, "pointwise"))
        before_passes(listing.model, partial(adapters.switch, "lists"))
        self.pairs = Scorer(scoring, batch_tokens=batch_tokens)
        self.lists = ListReader(listing, batch_tokens=batch_tokens, **options)


@LOADING
def _scoring_model(reader: Reader, side: Side, tokenizer: Any, name: str) -> ScoringModel:
    """A one-logit model whose body is the causal model's own."""
    causal, head = reader.model, head_of(side)
    if head.shape[0] != 1:
        raise ConfigError(f"{name}: {head.shape[0]} outputs, but a reranker has one")
    config = type(causal.config).from_dict(causal.config.to_dict())
    config.num_labels = 1
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(  # type: ignore[no-untyped-call]
            config, trust_remote_code=False
        )
    prefix = model.base_model_prefix
    if not (hasattr(model, "score") and hasattr(causal, prefix)):
        raise ConfigError(f"{name}: {type(model).__name__} has no body and head of that kind")
    setattr(model, prefix, getattr(causal, prefix))
    model.score = nn.Linear(head.shape[1], 1, bias=False, device="meta")
    model.score.weight = nn.Parameter(head.to(reader.device), requires_grad=False)
    # one configuration: how it attends is set there
    model.config = causal.config
    pool_by_mask(model)
    float32_head(model)
    contract = replace(contract_of(side.source), dtype=reader.dtype, pooling="mask")
    check_length(causal.config, contract, name)
    return ScoringModel(
        model=model.eval(),
        tokenizer=tokenizer,
        contract=contract,
        name=name,
        revision=_revision(side, reader),
        device=reader.device,
    )


def _list_model(reader: Reader, side: Side, tokenizer: Any, name: str) -> ListModel:
    return finish(
        reader.model,
        tokenizer,
        side.source,
        contract=None,
        name=name,
        revision=_revision(side, reader),
        reader=reader,
    )


def _tokenizers(sides: tuple[Side, Side], reader: Reader) -> list[Any]:
    """Of both sides; one object where they are the same."""
    found = [
        load_tokenizer(side.source) if has_tokenizer(side.source) else reader.tokenizer
        for side in sides
    ]
    for tokenizer in found:
        mend_padding(reader.model, tokenizer)
    first, second = map(_written, found)
    return [found[0]] * 2 if first == second else found


def _written(tokenizer: Any) -> tuple[Any, ...]:
    return (
        tokenizer.backend_tokenizer.to_str(),
        tokenizer.chat_template,
        tokenizer.eos_token_id,
        tokenizer.pad_token_id,
    )


def _revision(side: Side, reader: Reader) -> str:
    own = revision_of(side.source)
    return own if side.adapter is None else f"{own}+{reader.revision}"
