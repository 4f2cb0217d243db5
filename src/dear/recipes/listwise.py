"""The tables [listwise] and [heads]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from dear.recipes.values import STRICT, Count, NotNegative


@dataclass(frozen=True, kw_only=True)
class ListLossRecipe:
    """What an answer is measured by: text · cross-entropy + first · ranking loss + passages ·
    ranking loss.

    text: weight of the mean cross-entropy of the answer's tokens.
    first: weight of the ranking loss on the identifiers' logits where the first one is chosen
        (FIRST, Gangi Reddy et al. 2024).
    passages: weight of the same ranking loss on what the pointwise head of `model.base` makes of
        the state where each passage has been read; for prompts that mark it ("pairs"). A small
        model learns from it what to look up, long before it looks it up.
    first_loss: one of LOSSES, with its defaults.
    targets: what a loss that reads a teacher sees: "order" is the number of passages behind each
        one, "scores" the example's own. A loss that reads judgements sees the best as relevant.
    """

    __pydantic_config__ = STRICT
    text: NotNegative = 1.0
    first: NotNegative = 1.0
    passages: NotNegative = 0.0
    first_loss: str = "weighted-ranknet"
    targets: Literal["order", "scores"] = "order"


@dataclass(frozen=True, kw_only=True)
class ListwiseTable:
    """How lists become prompts and answers.

    prompt, max_words, max_window, max_tokens, thought: the contract that the checkpoint will
        carry; see dear.checkpoints.contract.
    shuffle: the candidates' order is drawn anew in every epoch.
    short_first: an epoch begins with its shortest lists and ends with its longest, instead of in
        an order of chance: which one is meant is learnt sooner among few passages.
    dev: files or folders as in `data.lists`; nDCG of the order that one pass gives chooses the
        checkpoint.
    """

    __pydantic_config__ = STRICT
    prompt: str = "list"
    max_words: Count = 100
    max_window: Annotated[int, Field(ge=2)] = 20
    max_tokens: Annotated[int, Field(ge=16)] = 4096
    thought: bool = False
    shuffle: bool = True
    short_first: bool = False
    loss: ListLossRecipe = ListLossRecipe()
    dev: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class HeadsTable:
    """How attention heads are weighted: no weight of the model changes.

    max_words, max_window: words of a passage and passages of a list; ranking should cut alike.
    strength: of the ridge penalty; features have variance 1.
    dev: files or folders as in `data.lists`, on which the weights are judged.
    """

    __pydantic_config__ = STRICT
    max_words: Count = 100
    max_window: Annotated[int, Field(ge=2)] = 20
    strength: Annotated[float, Field(gt=0)] = 1000.0
    dev: tuple[str, ...] = ()
