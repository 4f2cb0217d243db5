"""The last layer, behind its attention, for the one position that a head reads.

A one-logit head reads one token: a decoder's last, most encoders' first. What stands behind the
last layer's attention works on single tokens, so its products are made for that token alone:
12 % of the products of six layers, 3 % of thirty.

No copied forward pass: hooks cut the input of those products to one position, and the residual
sums broadcast what comes out. At the position that is read this is the same arithmetic; the
others hold numbers that nobody reads.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from dear.checkpoints.heads import pooled_logits, read_positions
from dear.checkpoints.layers import find_layers, has_weights
from dear.checkpoints.threads import exclusive
from dear.checkpoints.wrappers import bare_model
from dear.scoring.encoding import Encoded
from dear.scoring.tensors import collate

if TYPE_CHECKING:
    from dear.scoring.loading import ScoringModel

_positions: ContextVar[torch.Tensor | None] = ContextVar("positions", default=None)

logger = logging.getLogger(__name__)


@contextmanager
def reading(positions: torch.Tensor | None) -> Iterator[None]:
    """Inside, hooked products compute for `positions` (B,) alone; for all where None."""
    token = _positions.set(positions)
    try:
        yield
    finally:
        _positions.reset(token)


def reads_one(model: ScoringModel) -> bool:
    """True if the model's scores stay what they are inside `reading`; hooks it, once.

    Tried out on a few tokens: the state that is read must come out the same, and nothing else of
    the last layer may be read (a head that takes the mean of all tokens is False).
    """
    bare = bare_model(model.model)
    with exclusive(bare):  # passes of other threads would run through the trial's hooks
        known: bool | None = getattr(bare, "dear_reads_one", None)
        if known is None:
            known = bare.dear_reads_one = _tried(model)
    return known


def _tried(model: ScoringModel) -> bool:
    """Whether the hooks change no score; only then they stay."""
    bare = bare_model(model.model)
    hooks: list[Any] = []
    training = bare.training
    bare.eval()  # no dropout
    try:
        known = _hooked(model, hooks)
    except Exception as error:  # whatever a strange layer may raise
        logger.debug("%s is computed whole: %s", model.name, error)
        known = False
    finally:
        bare.train(training)
    if not known:
        for hook in hooks:
            hook.remove()
    return known


def _hooked(model: ScoringModel, hooks: list[Any]) -> bool:
    probe = _Probe(model)
    whole = probe.run()
    disturbed = probe.run("disturbed").reads
    behind = [one for one, states in whole.reads.items() if _differ(states, disturbed[one])]
    hooks += [module.register_forward_pre_hook(_cut) for module in behind]
    cut = probe.run("alone")
    exact = whole.state.dtype == torch.float32
    error = (cut.state.float() - whole.state.float()).norm() / whole.state.float().norm()
    apart = (cut.logits - whole.logits).abs().max().item()
    spread = (whole.logits.max() - whole.logits.min()).item() + 1e-3
    allowed = 1e-4 * (1 + whole.logits.abs().max().item()) if exact else 0.2 * spread
    return bool(behind) and error.item() < (1e-3 if exact else 0.1) and apart <= allowed


def _cut(_module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
    positions = _positions.get()
    states = arguments[0] if arguments else None
    if positions is None or not isinstance(states, torch.Tensor) or states.dim() != 3:
        return None
    # rows that were dropped, or an input that is cut already
    if states.shape[0] != positions.shape[0] or states.shape[1] == 1:
        return None
    places = positions.to(states.device)[:, None, None].expand(-1, 1, states.shape[-1])
    return (states.gather(1, places), *arguments[1:])


def _differ(states: torch.Tensor, others: torch.Tensor) -> bool:
    return bool((states - others).norm() > 0.01 * states.norm())


@dataclass(frozen=True)
class _Pass:
    """state: (B, H), of the last layer's output at the positions that are read.  logits: (B,).
    reads: product of the last layer → what it reads there, float32 (B, H)."""

    state: torch.Tensor
    logits: torch.Tensor
    reads: dict[nn.Module, torch.Tensor]


class _Probe:
    """A few sequences of several lengths, padded as the model's batches are."""

    def __init__(self, model: ScoringModel) -> None:
        self.model = model
        rows = model.model.get_input_embeddings().num_embeddings
        longest = model.contract.longest
        encoded = [
            Encoded([(7919 * i + 11 * n) % rows for i in range(n)], [0] * n)
            for n in (min(n, longest) for n in (5, 17, 9, 12))
        ]
        side = model.contract.padding_side if model.is_decoder else "right"
        self.inputs = [
            tensor.to(model.device)
            for tensor in collate(encoded, pad_id=model.tokenizer.pad_token_id, side=side)
        ]
        self.positions = read_positions(model.model, self.inputs[1])
        count = model.model.config.get_text_config().num_hidden_layers
        self.layer: nn.Module = getattr(*find_layers(model.model, count))[-1]

    def run(self, how: Literal["whole", "disturbed", "alone"] = "whole") -> _Pass:
        """disturbed: the layer reads something else at all positions but those that are read, so
        that what stands behind its attention reads something else there, too.
        alone: inside `reading`, and with zeros at all other positions of the layer's output.
        """
        reads: dict[nn.Module, torch.Tensor] = {}
        output: list[torch.Tensor] = []

        def disturb(_module: nn.Module, args: Any, kwargs: Any) -> Any:
            if args:
                return (self._mixed(args[0], args[0].flip(-1)), *args[1:]), kwargs
            states = kwargs["hidden_states"]
            return args, kwargs | {"hidden_states": self._mixed(states, states.flip(-1))}

        def read(module: nn.Module, args: tuple[Any, ...]) -> None:
            if args[0].shape[:-1] == self.inputs[0].shape:
                reads[module] = self._read(args[0]).float()

        def leave(_module: nn.Module, _args: Any, found: Any) -> Any:
            hidden = found[0] if isinstance(found, tuple) else found
            output.append(self._read(hidden))
            if how != "alone":
                return None
            hidden = self._mixed(hidden, torch.zeros_like(hidden))
            return (hidden, *found[1:]) if isinstance(found, tuple) else hidden

        with ExitStack() as stack:
            hooks = [
                module.register_forward_pre_hook(read)
                for module in self.layer.modules()
                if has_weights(module)
            ]
            hooks.append(self.layer.register_forward_hook(leave))
            if how == "disturbed":
                hooks.append(self.layer.register_forward_pre_hook(disturb, with_kwargs=True))
            for hook in hooks:
                stack.callback(hook.remove)
            stack.enter_context(reading(self.positions if how == "alone" else None))
            stack.enter_context(torch.inference_mode())
            logits = pooled_logits(self.model.model, *self.inputs)
        return _Pass(torch.cat(output), logits, reads)

    def _read(self, states: torch.Tensor) -> torch.Tensor:
        """(B, H) of states (B, T, H)."""
        rows = torch.arange(len(states), device=states.device)
        return states[rows, self.positions.to(states.device)]

    def _mixed(self, states: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        """`states` where they are read, `others` elsewhere; all (B, T, H)."""
        rows = torch.arange(len(states), device=states.device)
        places = self.positions.to(states.device)
        mixed = others.clone()
        mixed[rows, places] = states[rows, places]
        return mixed
