"""What training minimises: a weighted sum of losses, each reading the targets it was made for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dear.errors import ConfigError, excerpt, nearest
from dear.losses.table import find_loss


@dataclass(frozen=True, slots=True)
class Term:
    """One loss of an objective, by its name in `LOSSES`.

    weight: finite, 0 or more; a term of weight 0 is not computed and needs no targets.
    options: keyword options of the loss, such as {"temperature": 2.0}.
    Raises ConfigError for an unknown loss or option, and for a value that is out of range.
    """

    loss: str
    weight: float = 1.0
    options: Mapping[str, float | str | bool] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        loss = find_loss(self.loss)
        object.__setattr__(self, "options", dict(self.options))  # ours alone, and picklable
        _check_number(f"loss {self.loss!r}: weight", self.weight, most=math.inf)
        for option in self.options:
            if option not in loss.options:
                known = nearest(option, loss.options) or "; it has none"
                raise ConfigError(f"loss {self.loss!r}: unknown option {excerpt(option)}{known}")
        try:  # the loss itself knows its ranges: ask it now, not at the first step of a training
            loss.function(torch.zeros(1, 2), torch.zeros(1, 2), _BOTH, **self.options)
        except ConfigError as error:
            raise ConfigError(f"loss {self.loss!r}: {error}") from None


@dataclass(frozen=True, slots=True)
class Objective:
    """A weighted sum of losses: Σ weight · loss.

    terms: each loss at most once, one of them with a weight above 0; else ConfigError.
    """

    terms: tuple[Term, ...]

    def __post_init__(self) -> None:
        names = [term.loss for term in self.terms]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"loss {name!r} is named twice; add up the weights")
        if not self._active:
            raise ConfigError("an objective needs a loss with a weight above 0")

    @classmethod
    def dear(
        cls, main: Sequence[str] = ("ce",), alpha: float = 0.1, temperature: float = 2.0
    ) -> Objective:
        """(1 - α) · Σ main + α · T² · KL(softmax(teacher / T) ‖ softmax(student / T)), as in DeAR.

        main: names in `LOSSES`.  alpha: from 0 (no distillation; only what `main` reads is needed)
        to 1 (distillation alone).  temperature: T > 0, in logits.
        """
        _check_number("alpha", alpha, most=1.0)
        names = (main,) if isinstance(main, str) else tuple(main)
        distil = Term("kl", 1.0, {"temperature": temperature})  # checks T before it is squared
        mains = tuple(Term(name, 1.0 - alpha) for name in names)
        return cls((*mains, Term("kl", alpha * temperature**2, distil.options)))

    @property
    def needs_judgements(self) -> bool:
        """Whether a term reads grades."""
        return any(find_loss(term.loss).targets == "judgements" for term in self._active)

    @property
    def needs_teacher(self) -> bool:
        """Whether a term reads teacher logits."""
        return any(find_loss(term.loss).targets == "teacher" for term in self._active)

    def __call__(
        self, scores: Tensor, judgements: Tensor | None, teacher: Tensor | None, mask: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The total to minimise, and each term's own value for the log.

        scores, judgements (grades), teacher (logits): (B, N).  mask: (B, N) bool, False on padding.
        Returns a float32 scalar with a graph, and {loss name: detached scalar}, before the weights.
        Raises ConfigError where a term's targets are None. Values are not checked (that would
        stall a GPU at each step): a NaN on a real passage makes the losses that read it NaN.
        """
        given = {"judgements": judgements, "teacher": teacher}
        total = scores.new_zeros((), dtype=torch.float32)
        parts: dict[str, Tensor] = {}
        for term in self._active:
            loss = find_loss(term.loss)
            targets = given[loss.targets]
            if targets is None:
                raise ConfigError(f"loss {term.loss!r} reads {loss.targets}, and none were given")
            value = loss.function(scores, targets, mask, **term.options)
            total = total + term.weight * value
            parts[term.loss] = value.detach()
        return total, parts

    @property
    def _active(self) -> tuple[Term, ...]:
        return tuple(term for term in self.terms if term.weight > 0)


_BOTH = torch.ones(1, 2, dtype=torch.bool)


def _check_number(what: str, value: float, *, most: float) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not 0 <= value <= most:
        span = "0 or more" if most == math.inf else f"between 0 and {most:g}"
        raise ConfigError(f"{what} must be a number, {span}; got {value!r}")
