"""What the tests of the losses share: every loss with its options, and groups to try them on."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dear.losses import LOSSES

EIGHTH = 0.125  # scores are multiples of it, so that sums are exact and ties do occur


Test = Callable[..., None]


def for_all(**arguments: st.SearchStrategy[Any]) -> Callable[[Test], Test]:
    """`given`, for a test that runs once for each of many losses: few examples, no deadline."""
    return lambda test: settings(deadline=None, max_examples=12)(given(**arguments)(test))


@dataclass(frozen=True)
class Case:
    """One loss under one set of options."""

    name: str
    options: Mapping[str, float | str | bool] = field(default_factory=dict)

    def __str__(self) -> str:
        return " ".join([self.name, *(f"{k}={v}" for k, v in self.options.items())])

    def __call__(self, scores: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
        return LOSSES[self.name].function(scores, targets, mask, **self.options)

    @property
    def reads(self) -> str:
        return LOSSES[self.name].targets


CASES = [
    Case("ce"),
    Case("bce"),
    Case("ranknet"),
    Case("ranknet", {"soft": True, "temperature": 2.0}),
    Case("ranknet-judgements"),
    Case("weighted-ranknet"),
    Case("lambda"),
    Case("lambda", {"k": 2, "mu": 3.0}),
    Case("lambda", {"weighting": "lambdarank"}),
    Case("lambda", {"weighting": "lambdarank", "k": 2}),
    Case("margin-mse"),
    Case("margin-mse", {"against": "first"}),
    Case("mse"),
    Case("listnet"),
    Case("kl"),
    Case("kl", {"temperature": 2.0}),
]
POINTWISE = {"bce", "mse"}


@dataclass(frozen=True)
class Groups:
    """A batch of candidate groups of which some places are padding."""

    scores: Tensor
    judgements: Tensor
    teacher: Tensor
    mask: Tensor

    def targets(self, case: Case) -> Tensor:
        return self.judgements if case.reads == "judgements" else self.teacher

    def map(self, change: Callable[[Tensor], Tensor]) -> Groups:
        return Groups(*map(change, (self.scores, self.judgements, self.teacher, self.mask)))


@st.composite
def groups(draw: st.DrawFn, min_passages: int = 1, full: bool = False) -> Groups:
    """1-3 queries by up to 6 passages; padding anywhere, whole rows too, unless `full`."""
    shape = draw(st.integers(1, 3)), draw(st.integers(min_passages, 6))

    def table(low: int, high: int) -> Tensor:
        # bytes are what hypothesis draws fastest; byte 0 becomes 0, so that examples shrink to 0
        cells = draw(st.binary(min_size=shape[0] * shape[1], max_size=shape[0] * shape[1]))
        return (torch.tensor(list(cells)).view(shape) - low) % (high - low + 1) + low

    return Groups(
        scores=table(-40, 40) * EIGHTH,
        judgements=table(-1, 3).float(),
        teacher=table(-40, 40) * EIGHTH,
        mask=torch.ones(shape, dtype=torch.bool) if full else table(0, 1).bool(),
    )


def value_and_gradient(
    case: Callable[..., Tensor], scores: Tensor, targets: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor]:
    """The loss, and its gradient with respect to the scores."""
    leaf = scores.detach().clone().requires_grad_()
    value = case(leaf, targets, mask)
    value.backward()
    assert leaf.grad is not None
    return value.detach(), leaf.grad


def units(case: Case, targets: Tensor, mask: Tensor) -> int:
    """How many queries, passages or pairs the mean goes over, counted one by one."""
    return sum(
        _units_of_query(case, row[real].tolist(), bool(real[0]))
        for row, real in zip(targets, mask, strict=True)
    )


def _units_of_query(case: Case, targets: list[float], first_is_real: bool) -> int:
    if case.name in POINTWISE:
        return len(targets)
    if case.name == "ce":
        return int(any(t > 0 for t in targets) and any(t <= 0 for t in targets))
    if case.name == "weighted-ranknet":
        return int(len(set(targets)) >= 2)
    if case.name in {"listnet", "kl"}:
        return int(len(targets) >= 2)
    if case.name == "lambda":
        return int(len({max(t, 0.0) for t in targets}) >= 2)
    if case.name == "margin-mse" and case.options.get("against") == "first":
        return (len(targets) - 1) * first_is_real
    pairs = list(itertools.combinations(targets, 2))
    return len(pairs) if case.name == "margin-mse" else sum(a != b for a, b in pairs)
