"""Training groups to tensors, and their pairs to logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from dear.checkpoints.heads import pooled_logits, read_positions
from dear.losses import Objective
from dear.scoring.batching import token_batches
from dear.scoring.encoding import PairEncoder
from dear.scoring.engines.one_position import reading
from dear.scoring.tensors import collate
from dear.train.examples import Example


class GroupCollator:
    """Examples to tensors: pairs flattened to (P, T), and a (B, N) index of rows into them.

    Groups of different size are padded in the index, never in the pairs, so a short group or a
    short last batch costs nothing and mixes nothing.
    """

    def __init__(self, encoder: PairEncoder, pad_id: int) -> None:
        self.encoder = encoder
        # transformers saves it with every checkpoint, which so can be another training's base
        self.tokenizer = encoder.tokenizer
        self.pad_id = pad_id

    def __call__(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        pairs = [(e.query, passage) for e in examples for passage in e.passages]
        ids, mask, types = collate(self.encoder.encode(pairs), pad_id=self.pad_id)
        width = max(len(e.passages) for e in examples)
        rows = torch.zeros(len(examples), width, dtype=torch.int64)
        present = torch.zeros(len(examples), width, dtype=torch.bool)
        grades = torch.zeros(len(examples), width)
        teacher = torch.zeros(len(examples), width)
        first = 0
        for b, example in enumerate(examples):
            n = len(example.passages)
            rows[b, :n] = torch.arange(first, first + n)
            present[b, :n] = True
            grades[b, :n] = torch.tensor(example.group.grades, dtype=torch.float32)
            if example.group.teacher is not None:
                teacher[b, :n] = torch.tensor(example.group.teacher, dtype=torch.float32)
            first += n
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "token_type_ids": types,
            "rows": rows,
            "present": present,
            "grades": grades,
            "teacher": teacher,
        }


def split_batch(batch: Mapping[str, torch.Tensor], budget: int) -> list[dict[str, torch.Tensor]]:
    """A collator's batch in batches of whole groups, in order, of `budget` tokens where a group
    alone has no more."""
    lengths = batch["attention_mask"].sum(-1)
    ends = batch["present"].sum(-1).cumsum(0).tolist()
    tokens = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    cuts, start = [0], 0
    for group, end in enumerate(ends):
        if group > cuts[-1] and tokens[end] - tokens[start] > budget:
            cuts.append(group)
            start = ends[group - 1]
    out = []
    for first, last in zip(cuts, [*cuts[1:], len(ends)], strict=True):
        low, high = ends[first - 1] if first else 0, ends[last - 1]
        part = {key: batch[key][first:last] for key in ("present", "grades", "teacher")}
        for key in ("input_ids", "attention_mask", "token_type_ids"):
            part[key] = batch[key][low:high, : int(lengths[low:high].max())]
        out.append(part | {"rows": (batch["rows"][first:last] - low).clamp(min=0)})
    return out


def flat_logits(
    model: Any, batch: Mapping[str, torch.Tensor], budget: int | None, *, alone: bool = False
) -> torch.Tensor:
    """float32 (P,) logits of a batch's pairs.

    budget: padded tokens that go through the model at once, pairs of like length together; None
    for all at once. The result does not depend on it, the time on a CPU does.
    alone: the last layer computes for the token that the head reads (`reads_one` is true of the
    model), with the gradient of the whole.
    """
    ids, mask, types = batch["input_ids"], batch["attention_mask"], batch["token_type_ids"]
    if budget is None:
        return _logits(model, ids, mask, types, alone)
    lengths = mask.sum(-1).tolist()
    batches = token_batches(lengths, budget)
    parts = []
    for rows in batches:
        width = lengths[rows[0]]
        at = torch.tensor(rows, device=ids.device)
        parts.append(_logits(model, ids[at, :width], mask[at, :width], types[at, :width], alone))
    order = torch.tensor([row for rows in batches for row in rows], device=ids.device)
    return torch.cat(parts)[order.argsort()]


def _logits(
    model: Any, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor, alone: bool
) -> torch.Tensor:
    with reading(read_positions(model, mask) if alone else None):
        return pooled_logits(model, ids, mask, types)


def group_losses(
    objective: Objective, logits: torch.Tensor, batch: Mapping[str, torch.Tensor]
) -> torch.Tensor:
    """float32 (B,): the objective of each group alone.

    logits: (P,) of the batch's pairs.
    A loss is a mean over queries, passages or pairs, so that its value for a batch would depend
    on who else is in it (ties, groups of different size). Taken for each group, then averaged,
    every group weighs the same and accumulation changes nothing.
    """

    def alone(
        scores: torch.Tensor, grades: torch.Tensor, teacher: torch.Tensor, present: torch.Tensor
    ) -> torch.Tensor:
        total, _parts = objective(scores[None], grades[None], teacher[None], present[None])
        return total

    each: torch.Tensor = torch.vmap(alone)(
        logits[batch["rows"]], batch["grades"], batch["teacher"], batch["present"]
    )
    return each
