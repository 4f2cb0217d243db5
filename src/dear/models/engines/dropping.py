"""Rows taken out of a batch between two layers of a transformers model.

Hooks, no copied forward pass: the layers from `layer` on get smaller tensors, and the last one's
output is filled up to the full batch again, so that norm, pooling and head see what they expect.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dear.errors import ConfigError
from dear.models.encoding import Encoded
from dear.models.loading import ScoringModel, find_layers

Decide = Callable[[torch.Tensor], NDArray[np.bool_]]
"""Pooled states (B, d) to the rows (B,) that go on."""

Place = tuple[str | int, ...]
"""Where a tensor stands among a layer's arguments: ("kwargs", "position_embeddings", 0)."""


class AllDropped(Exception):
    """No row of a batch goes on: the pass ends here. Never leaves this package."""


def layers_of(model: ScoringModel) -> nn.ModuleList:
    """The model's layers. ConfigError where they are shared or cannot be found."""
    count = model.model.config.get_text_config().num_hidden_layers
    try:
        parent, name = find_layers(model.model, count)
    except ConfigError as error:
        raise ConfigError(f"{model.name}: early exit does not work here: {error}") from None
    found = getattr(parent, name)
    assert isinstance(found, nn.ModuleList)
    return found


def full_mask(encoded: Sequence[Encoded], model: ScoringModel) -> torch.Tensor:
    """bool (B, T) on the CPU: True on the tokens of the batch that PaddedEngine makes of these."""
    lengths = torch.tensor([len(e) for e in encoded])
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    left = model.is_decoder and model.contract.padding_side == "left"
    return mask.flip(1) if left else mask


def pooled_state(hidden: torch.Tensor, mask: torch.Tensor, *, last: bool) -> torch.Tensor:
    """float32 (B, d) of hidden (B, T, h): what the probe reads.

    last (decoders): the last token of the mask, d = h. Otherwise the mean over all tokens and the
    first token, d = 2 h. Each part is scaled to a mean square of 1, as the model's own last norm
    does: states grow from layer to layer and differ in length.
    """
    if hidden.dim() != 3 or hidden.shape[:2] != mask.shape:
        raise ConfigError(
            f"early exit does not work here: a layer reads {tuple(hidden.shape)}, not "
            f"{tuple(mask.shape)} and a width"
        )
    mask = mask.to(hidden.device)
    if last:
        places = (mask * torch.arange(mask.shape[1], device=mask.device)).argmax(-1)
        return _unit(hidden[torch.arange(len(places), device=mask.device), places].float())
    weight = mask.float() / mask.sum(1, keepdim=True)
    mean = torch.einsum("bt,bth->bh", weight, hidden.float())
    return torch.cat([_unit(mean), _unit(hidden[:, 0].float())], dim=1)


@contextlib.contextmanager
def recording(
    model: ScoringModel, layers: Sequence[int], take: Callable[[int, torch.Tensor], None]
) -> Iterator[None]:
    """take(layer, hidden (B, T, h)) for what each of `layers` reads, in every pass inside."""

    def hook(layer: int) -> Callable[..., None]:
        return lambda _module, args, kwargs: take(layer, _hidden(args, kwargs))

    found = layers_of(model)
    with _hooks(found[i].register_forward_pre_hook(hook(i), with_kwargs=True) for i in layers):
        yield


class RowDropper:
    """Drops rows where layer `layer` (0 is the first) would read them."""

    def __init__(self, model: ScoringModel, layer: int) -> None:
        self.layers = layers_of(model)
        if not 1 <= layer < len(self.layers):
            raise ConfigError(
                f"early exit after layer {layer}: {model.name} has {len(self.layers)} layers, so "
                f"it is one of 1 to {len(self.layers) - 1}"
            )
        self.layer = layer
        self.last = model.is_decoder
        self.per_row: dict[Place, int] = {}

    def learn(self, forward: Callable[[int], object]) -> None:
        """Read off passes of 2 and of 3 rows which arguments grow with the batch, and how fast.

        A leading dimension that happens to equal the batch is no proof: masks and positions may
        be broadcast, and Bloom's alibi has a row for each head of each pair.
        """
        seen: dict[int, dict[Place, int]] = {2: {}, 3: {}}
        for rows, sizes in seen.items():

            def note(_module: Any, args: Any, kwargs: Any, sizes: dict[Place, int] = sizes) -> None:
                _walk((args, kwargs), (), lambda place, t: sizes.setdefault(place, len(t)))

            with _hooks(
                layer.register_forward_pre_hook(note, with_kwargs=True)
                for layer in self.layers[self.layer :]
            ):
                forward(rows)
        self.per_row = {
            place: size // 3
            for place, size in seen[3].items()
            if size % 3 == 0 and seen[2].get(place) == 2 * size // 3
        }

    @contextlib.contextmanager
    def dropping(self, mask: torch.Tensor, decide: Decide) -> Iterator[None]:
        """One pass inside, of the batch that `mask` (B, T) shows; `decide` is asked once.

        Rows that do not go on have meaningless logits. AllDropped where none does. In a turn of
        the model's (dear.models.threads): the hooks would drop rows of other threads' passes.
        """
        now = _Pass(self, mask, decide)
        first, *others = self.layers[self.layer :]
        with _hooks(
            [
                first.register_forward_pre_hook(now.enter, with_kwargs=True),
                *(o.register_forward_pre_hook(now.reduce, with_kwargs=True) for o in others),
                self.layers[-1].register_forward_hook(now.restore),
            ]
        ):
            yield


class _Pass:
    def __init__(self, dropper: RowDropper, mask: torch.Tensor, decide: Decide) -> None:
        self.dropper = dropper
        self.mask = mask
        self.decide = decide
        self.rows: torch.Tensor | None = None
        # layers share masks and positions: each is cut once. Holds the original, so that its id
        # stays its own
        self.cut: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def enter(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        hidden = _hidden(args, kwargs)
        keep = self.decide(pooled_state(hidden, self.mask, last=self.dropper.last))
        if not keep.any():
            raise AllDropped
        if not keep.all():
            self.rows = torch.from_numpy(np.flatnonzero(keep)).to(hidden.device)
        return self.reduce(module, args, kwargs)

    def reduce(self, _module: nn.Module, args: Any, kwargs: Any) -> Any:
        if self.rows is None:
            return None
        return _walk((args, kwargs), (), self._cut)

    def restore(self, _module: nn.Module, _args: Any, output: Any) -> Any:
        if self.rows is None:
            return None
        hidden = output[0] if isinstance(output, tuple) else output
        full = hidden.new_zeros((len(self.mask), *hidden.shape[1:]))
        full[self.rows] = hidden
        return (full, *output[1:]) if isinstance(output, tuple) else full

    def _cut(self, place: Place, tensor: torch.Tensor) -> torch.Tensor:
        times, rows = self.dropper.per_row.get(place, 0), self.rows
        # what an earlier layer has made is small already
        if rows is None or times == 0 or len(tensor) != times * len(self.mask):
            return tensor
        if id(tensor) not in self.cut:
            size = len(self.mask)
            some = tensor.reshape(size, times, *tensor.shape[1:])[rows].flatten(0, 1)
            self.cut[id(tensor)] = (tensor, some)
        return self.cut[id(tensor)][1]


def _hidden(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
    hidden = args[0] if args else kwargs.get("hidden_states")
    if not isinstance(hidden, torch.Tensor):
        raise ConfigError("early exit does not work here: a layer reads no hidden states")
    return hidden


def _unit(x: torch.Tensor) -> torch.Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-12)


def _walk(value: Any, place: Place, change: Callable[[Place, torch.Tensor], Any]) -> Any:
    """`value` with each tensor inside tuples, lists and dicts changed."""
    if isinstance(value, torch.Tensor):
        return change(place, value) if value.dim() else value
    if isinstance(value, dict):
        return {key: _walk(v, (*place, key), change) for key, v in value.items()}
    if type(value) in (tuple, list):
        return type(value)(_walk(v, (*place, i), change) for i, v in enumerate(value))
    return value


@contextlib.contextmanager
def _hooks(handles: Any) -> Iterator[None]:
    held: list[Any] = []
    try:
        held.extend(handles)
        yield
    finally:
        for handle in held:
            handle.remove()
