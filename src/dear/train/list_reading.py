"""What a causal model says about lists in one forward pass, and how good its orders are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.stats import kendalltau
from torch.nn import functional as F

from dear.checkpoints.heads import takes
from dear.checkpoints.wrappers import bare_model
from dear.records import ListExample
from dear.scoring.batching import token_batches
from dear.train.lists import ListTokenizer, ListTokens, row_of, tokenise


def list_quality(found: Sequence[int], best: Sequence[int]) -> tuple[float, float]:
    """(nDCG, Kendall's tau) of an order against the one that it should be.

    The gain of a passage is the number of those that should stand behind it.
    """
    count = len(best)
    gains = {passage: count - 1 - rank for rank, passage in enumerate(best)}
    discounts = 1 / np.log2(np.arange(2, count + 2))
    ideal = float(np.arange(count)[::-1] @ discounts)
    ndcg = float(np.array([gains[p] for p in found]) @ discounts) / ideal
    ranks = {passage: rank for rank, passage in enumerate(found)}
    tau = kendalltau([ranks[p] for p in best], range(count)).statistic
    return ndcg, float(tau)


def judge_of(
    encode: ListTokenizer, held_out: Sequence[ListExample]
) -> Callable[[Any], float] | None:
    """Mean nDCG of single-pass orders on the held-out lists."""
    if not held_out:
        return None
    in_order = ListTokenizer(encode.encoder, encode.contract, "order")
    tokens, _ = tokenise(held_out, in_order, epochs=1, seed=None)

    def judge(model: Any) -> float:
        best = [_best(t) for t in tokens[0]]
        found = orders(model, tokens[0])
        return float(np.mean([list_quality(f, b)[0] for f, b in zip(found, best, strict=True)]))

    return judge


def _best(tokens: ListTokens) -> list[int]:
    return sorted(range(len(tokens.targets)), key=lambda i: -tokens.targets[i])


CPU_LIST_TOKENS = 2048
"""Padded tokens that go through the model at once on a CPU, and tokens of the lists whose
activations are held at once; the numbers do not depend on it. A list that is longer goes alone,
which wants no mask."""

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Read:
    """What one forward pass says about one example.

    identifiers: float32 (N,) logits of the identifiers' first tokens where the first is chosen.
    text: the mean cross-entropy of the answer's tokens in nats, float32; 0 where it was not asked.
    passages: float32 (N,) scores of a pointwise head where each passage has been read; None
        without a head.
    """

    identifiers: torch.Tensor
    text: torch.Tensor
    passages: torch.Tensor | None = None


def read(
    model: Any,
    rows: Rows,
    *,
    text: bool,
    head: torch.Tensor | None = None,
    budget: int | None = None,
) -> list[Read]:
    """One Read for each row (of `row_of`), in order.

    text: also measure the answers.  head: float32 (H,), a pointwise model's, to score passages.
    budget: padded tokens in one forward pass, lists of like length together; None for all at once.
    The vocabulary's logits are made for the answer alone, the identifiers' in float32.
    """
    # the last token is only predicted, never read
    lengths = [len(row["input_ids"]) - 1 for row in rows]
    batches = token_batches(lengths, budget) if budget else [list(range(len(rows)))]
    found: dict[int, Read] = {}
    for batch in batches:
        found |= zip(batch, _read_batch(model, [rows[i] for i in batch], text, head), strict=True)
    return [found[i] for i in range(len(rows))]


def _read_batch(
    model: Any, rows: Rows, text: bool, scorer: torch.Tensor | None = None
) -> list[Read]:
    inner = bare_model(model)
    device = inner.get_input_embeddings().weight.device
    # places counted from the end, for padding on the left
    back = [row["answer"] - row["first"] for row in rows]
    kept = max(row["answer"] for row in rows) if text else max(back)
    width = max(len(row["input_ids"]) for row in rows) - 1
    ids = torch.zeros(len(rows), width, dtype=torch.int64)
    mask = torch.zeros(len(rows), width, dtype=torch.int64)
    for b, row in enumerate(rows):
        shown = row["input_ids"][:-1]
        ids[b, width - len(shown) :] = torch.tensor(shown)
        mask[b, width - len(shown) :] = 1
    ids, mask = ids.to(device), mask.to(device)
    options: dict[str, Any] = {"logits_to_keep": kept, "use_cache": False}
    if takes(inner, "position_ids"):
        options["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
    head = inner.get_output_embeddings()
    states: list[torch.Tensor] = []
    every: list[torch.Tensor] = []
    hooks = [head.register_forward_pre_hook(lambda _, given: states.append(given[0]))]
    if scorer is not None:
        body = getattr(inner, inner.base_model_prefix)
        hooks.append(body.register_forward_hook(lambda *given: every.append(given[2][0])))
    try:
        logits = model(input_ids=ids, attention_mask=mask, **options).logits
    finally:
        for hook in hooks:
            hook.remove()
    out = []
    for b, row in enumerate(rows):
        named = torch.tensor(row["named"], device=device)
        identifiers = _in_float32(head, states[0][b, kept - back[b]], named)
        value = identifiers.new_zeros(())
        if text:
            answer = torch.tensor(row["input_ids"][-row["answer"] :], device=device)
            value = F.cross_entropy(logits[b, kept - row["answer"] :].float(), answer)
        scores = None
        if scorer is not None:
            before = width - len(row["input_ids"]) + 1
            with torch.autocast(device.type, enabled=False):
                scores = every[0][b, [before + i for i in row["ends"]]].float() @ scorer
        out.append(Read(identifiers, value, scores))
    return out


def _in_float32(head: Any, state: torch.Tensor, named: torch.Tensor) -> torch.Tensor:
    """(N,) logits of some tokens; bfloat16 would turn close ones into ties."""
    with torch.autocast(state.device.type, enabled=False):
        logits: torch.Tensor = head.weight[named].float() @ state.float()
        bias = getattr(head, "bias", None)
        return logits if bias is None else logits + bias[named].float()


def orders(
    model: Any, tokens: Sequence[ListTokens], *, budget: int | None = CPU_LIST_TOKENS
) -> list[tuple[int, ...]]:
    """The order that a single pass gives each list: places in the prompt, best first."""
    with torch.inference_mode():
        found = read(model, [row_of(t) for t in tokens], text=False, budget=budget)
    return [tuple((-r.identifiers).argsort(stable=True).tolist()) for r in found]
