"""What every loss does first and last: make padding harmless, average over what counts.

Losses are float32 whatever comes in (bfloat16 turns close scores into ties), and padding is
replaced before any arithmetic, because 0 · nan is nan, in the gradient too.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dear.errors import ConfigError, excerpt, nearest

_FLOOR = torch.finfo(torch.float32).min  # finite, so that 0 · log(0) is 0 and not nan


def clean(scores: Tensor, targets: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Both as float32 with 0 on padding; no gradient reaches the targets.

    A NaN target on a real passage makes its score NaN, so that a missing label shows as a NaN
    loss and is never read as a tie, a negative or a zero.

    Raises ConfigError where the three are not (B, N) alike or the mask is not bool: broadcasting
    would train on nonsense in silence.
    """
    if scores.ndim != 2 or scores.shape != targets.shape or scores.shape != mask.shape:
        shapes = f"{tuple(scores.shape)}, {tuple(targets.shape)} and {tuple(mask.shape)}"
        raise ConfigError(f"scores, targets and mask must all be (B, N), got {shapes}")
    if mask.dtype != torch.bool:
        raise ConfigError(f"mask must be bool, True on real passages; got {mask.dtype}")
    clean_targets = torch.where(mask, targets.detach().float(), 0.0)
    clean_scores = torch.where(mask, scores.float(), 0.0)
    return clean_scores.masked_fill(clean_targets.isnan(), math.nan), clean_targets


def log_softmax(values: Tensor, mask: Tensor) -> Tensor:
    """(B, N) log-probabilities over the real passages; a huge negative number on padding."""
    return values.masked_fill(~mask, _FLOOR).log_softmax(dim=1)


def differences(values: Tensor) -> Tensor:
    """(B, N, N): entry [b, i, j] is values[b, i] - values[b, j]."""
    return values.unsqueeze(2) - values.unsqueeze(1)


def both_real(mask: Tensor) -> Tensor:
    """(B, N, N) bool: neither i nor j is padding."""
    return mask.unsqueeze(2) & mask.unsqueeze(1)


def mean_over(losses: Tensor, valid: Tensor) -> Tensor:
    """Scalar mean of the losses of valid units; 0, with a graph and zero gradients, of none."""
    return torch.where(valid, losses, 0.0).sum() / valid.sum().clamp(min=1)


def require_positive(name: str, value: float) -> None:
    """ConfigError unless the option is a finite number above 0."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value <= 0:
        raise ConfigError(f"{name} must be a number above 0, got {value!r}")


def require_cutoff(name: str, value: int | None) -> None:
    """ConfigError unless the option is a whole number from 1 on, or None."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    if value is not None and (not whole or value < 1):
        raise ConfigError(f"{name} must be a whole number from 1 on, got {value!r}")


def require_flag(name: str, value: bool) -> None:
    """ConfigError unless the option is true or false."""
    if value is not True and value is not False:
        raise ConfigError(f"{name} must be true or false, got {value!r}")


def require_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    """ConfigError, with the nearest known word, unless the option is one of `known`."""
    if value not in known:
        raise ConfigError(f"unknown {name} {excerpt(str(value))}{nearest(str(value), known)}")
