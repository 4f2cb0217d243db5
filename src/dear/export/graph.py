"""A model as an OpenVINO graph, checked against transformers; its products in 8 bits."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from dear.checkpoints.heads import HEAD_PARTS, read_positions
from dear.checkpoints.layers import has_weights
from dear.checkpoints.threads import exclusive
from dear.errors import BackendError, ConfigError, MissingExtra
from dear.scoring.attention import attending
from dear.scoring.encoding import Encoded, Pair, PairEncoder
from dear.scoring.engines.one_position import reading, reads_one
from dear.scoring.engines.openvino import OpenVINOEngine, load_openvino
from dear.scoring.engines.packed import REFUSED
from dear.scoring.engines.padded import PaddedEngine
from dear.scoring.loading import ScoringModel
from dear.scoring.tensors import collate

FAR = -30_000.0
"""Added to the attention logits of what is not seen; a bfloat16 holds it, and half of it, too."""

TOLERANCE = 2e-4
"""Largest difference from transformers, in float32, in units of 1 + |logit|."""

GROUPED = "dear_grouped"
"""Name of `grouped_attention` in transformers' attention interface."""

logger = logging.getLogger(__name__)


class PairModule(nn.Module):
    """(input_ids, attention_mask[, token_type_ids]), padded on the right, to (B,) logits.

    The attention mask is handed to the body in four dimensions: that is what it adds, whatever
    the shapes, so nothing of the example's shape is left in the traced graph.
    """

    def __init__(self, model: ScoringModel) -> None:
        super().__init__()
        self.model = model.model
        self.is_decoder = model.is_decoder
        self.reads_one = reads_one(model)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        last = read_positions(self.model, attention_mask)
        with reading(last if self.reads_one else None):
            if self.is_decoder:
                return self._decoder(input_ids, attention_mask, last)
            return self._encoder(input_ids, attention_mask, token_type_ids)

    def _encoder(
        self, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor | None
    ) -> torch.Tensor:
        bias = torch.where(mask[:, None, None, :] > 0, 0.0, FAR)
        extra = {} if types is None else {"token_type_ids": types}
        found = self.model(input_ids=ids, attention_mask=bias, **extra).logits
        return cast(torch.Tensor, found[:, 0])

    def _decoder(self, ids: torch.Tensor, mask: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
        count, width = ids.shape
        places = torch.arange(width)
        seen = (mask[:, None, None, :] > 0) & (places[None, :] <= places[:, None])
        body = getattr(self.model, self.model.base_model_prefix)
        hidden = body(
            input_ids=ids,
            attention_mask=torch.where(seen, 0.0, FAR),
            position_ids=places[None].expand(count, width),
            use_cache=False,
        ).last_hidden_state
        pooled = hidden.gather(1, last[:, None, None].expand(count, 1, hidden.shape[-1]))
        return cast(torch.Tensor, self.model.score(pooled[:, 0])[:, 0])


def scoring_graph(ov: Any, model: ScoringModel) -> Any:
    """The model in float32, as OpenVINO's `ov.Model`.

    BackendError for a model that OpenVINO cannot read, ConfigError for one whose graph does not
    give transformers' own scores.
    """
    module = PairModule(model)
    with exclusive(model.model), _grouped(module) if _groups(model, module) else nullcontext():
        graph = _converted(ov, model, module)
    _require_same(model, graph)
    return graph


def grouped_attention(
    _module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **other: Any,
) -> tuple[torch.Tensor, None]:
    """query (B, heads, T, D), key and value (B, key heads, T, D) → (B, T, heads, D).

    Heads that share keys stand behind each other as if they were more tokens, so that neither
    keys nor values are copied for them: OpenVINO's copies took a seventh of a layer's time.
    ConfigError for attention that is more than softmax(q k + mask) v.
    """
    if attention_mask is None or any(other.get(name) is not None for name in REFUSED):
        raise ConfigError("attention with a bias of its own is not grouped")
    count, heads, width, size = query.shape
    groups = heads // key.shape[1]
    query = query * (size**-0.5 if scaling is None else scaling)
    query = query.reshape(count, heads // groups, groups * width, size)
    logits = query @ key.transpose(2, 3) + attention_mask.repeat(1, 1, groups, 1)
    found = logits.softmax(-1) @ value
    return found.reshape(count, heads, width, size).transpose(1, 2).contiguous(), None


def _grouped(module: PairModule) -> AbstractContextManager[None]:
    return attending(module.model.config, GROUPED, grouped_attention)


def _groups(model: ScoringModel, module: PairModule) -> bool:
    """True if heads share keys, and `grouped_attention` is what this model computes."""
    config = model.model.config
    heads = getattr(config, "num_attention_heads", 1)
    if (getattr(config, "num_key_value_heads", None) or heads) >= heads:
        return False
    ids, mask, _ = collate([numbered(_rows(model), n) for n in (7, 5)], pad_id=0)
    try:
        with exclusive(model.model), torch.no_grad():
            theirs = module(ids, mask)
            with _grouped(module):
                mine = module(ids, mask)
    except Exception as error:  # whatever a strange attention may raise
        logger.debug("%s: heads are not grouped: %s", model.name, error)
        return False
    return torch.allclose(mine, theirs, rtol=TOLERANCE, atol=TOLERANCE)


def _converted(ov: Any, model: ScoringModel, module: PairModule) -> Any:
    encoded = [numbered(_rows(model), n) for n in (17, 9, 13)]
    ids, mask, types = collate(encoded, pad_id=model.tokenizer.pad_token_id)
    example = {"input_ids": ids, "attention_mask": mask}
    if not model.is_decoder and has_types(model.model.config):
        example["token_type_ids"] = types
    try:
        with torch.no_grad():
            graph = ov.convert_model(module, example_input=example)
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BackendError(f"{model.name}: OpenVINO cannot read this model: {first}") from error
    for port, name in zip(graph.inputs, example, strict=True):
        port.get_tensor().set_names({name})
    return graph


def _rows(model: ScoringModel) -> int:
    return int(model.model.get_input_embeddings().num_embeddings)


def has_types(config: Any) -> bool:
    """Whether a model tells the texts of a pair apart by the types of their tokens."""
    return getattr(config, "type_vocab_size", 0) > 1


def numbered(rows: int, length: int) -> Encoded:
    """A sequence of `length` tokens that has nothing special in it. rows: of the embedding."""
    ids = np.random.default_rng(length).integers(min(1000, rows // 2), rows, size=length)
    return Encoded([int(i) for i in ids], [0] * (length // 2) + [1] * (length - length // 2))


def _require_same(model: ScoringModel, graph: Any) -> None:
    """ConfigError unless the graph gives transformers' scores at lengths it was not traced with."""
    longest = min(model.contract.longest, 1024)
    lengths = (1, 2, 5, 31, 64, longest // 2, longest)
    probe = [numbered(_rows(model), min(n, longest)) for n in lengths]
    if not has_types(model.model.config):
        probe = [Encoded(e.ids, [0] * len(e)) for e in probe]
    engine = OpenVINOEngine(
        graph,
        pad_id=model.tokenizer.pad_token_id,
        precision="f32",
        batch_tokens=512,
        longest=model.contract.longest,
    )
    mine = engine.run(probe)
    theirs = PaddedEngine(model, 512, whole=True).run(probe)
    worst = float(np.max(np.abs(mine - theirs) / (1 + np.abs(theirs))))
    if not worst <= TOLERANCE:
        raise ConfigError(
            f"{model.name}: the exported graph is off transformers' scores by {worst:.2g}; this "
            "architecture cannot be exported"
        )


OUTLIER_PAIRS = 64
"""Pairs whose activations say which products stay out of int8."""

OUTLIERS = 50.0
"""A product stays out where the largest number that it reads is so many times their root mean
square: 8 bits would round that input by a ninth of its size. Of SmolLM2's 210 products 32 do, 28 of
them behind a gated activation, up to 350 times; of MiniLM's none."""

HEAD_OPERATIONS = rf".*\.({'|'.join(HEAD_PARTS)})[./].*"
"""Names of a graph's operations that belong to the head, as a regular expression. A row a pair:
nothing to gain, and five sixths of an encoder's int8 error were in it."""


def quantised(graph: Any, model: ScoringModel, calibration: Sequence[Pair]) -> Any:
    """`graph` of `model` with weights and activations in int8; attention and head are left out.

    MissingExtra without nncf.
    """
    load_openvino()  # before NNCF, which would report its import otherwise
    try:
        import nncf
    except ImportError:
        raise MissingExtra.of("nncf", "openvino") from None
    names = [port.any_name for port in graph.inputs]
    encoded = PairEncoder(model.tokenizer, model.contract).encode(list(calibration))

    def feed(rows: Sequence[Encoded]) -> dict[str, Any]:
        ids, mask, types = collate(rows, pad_id=model.tokenizer.pad_token_id)
        tensors = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
        return {name: tensors[name].numpy() for name in names}

    # one at a time: padding would take part in the ranges
    samples = nncf.Dataset([[e] for e in encoded], feed)
    outside = [re.escape(name) for name in outlying(model, encoded[:OUTLIER_PAIRS])]
    found = nncf.quantize(
        graph,
        samples,
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(encoded),
        # weights in 7 bits: processors without VNNI add two products in 16 bits, which saturate at
        # 255 * 127 * 2; docs/scoring.md
        advanced_parameters=nncf.AdvancedQuantizationParameters(
            overflow_fix=nncf.OverflowFix.ENABLE
        ),
        ignored_scope=nncf.IgnoredScope(
            patterns=[HEAD_OPERATIONS, *(rf".*\.{name}/.*" for name in outside)],
            # products of activations: turning them into 8 bits and back takes longer than they do
            types=["ScaledDotProductAttention"],
            validate=False,
        ),
    )
    _fuse_rounding(found)
    return found


def outlying(model: ScoringModel, encoded: Sequence[Encoded]) -> list[str]:
    """Names of the modules that multiply something with outliers: see OUTLIERS."""
    largest: dict[str, float] = {}
    squares: dict[str, list[float]] = {}

    def watch(name: str) -> Any:
        def read(_module: nn.Module, arguments: tuple[Any, ...]) -> None:
            states = arguments[0].float()
            largest[name] = max(largest.get(name, 0.0), states.abs().max().item())
            squares.setdefault(name, []).append(states.square().mean().item())

        return read

    with ExitStack() as stack:
        stack.enter_context(exclusive(model.model))
        for name, module in model.model.named_modules():
            if has_weights(module):
                stack.callback(module.register_forward_pre_hook(watch(name)).remove)
        stack.enter_context(torch.inference_mode())
        for one in encoded:
            model.model(input_ids=torch.tensor([one.ids]))
    return [
        name
        for name, most in largest.items()
        if most > OUTLIERS * float(np.mean(squares[name])) ** 0.5
    ]


def _fuse_rounding(graph: Any) -> None:
    """Let OpenVINO round a norm's output to 8 bits in one pass over it.

    It fuses the rounding with a product that stands right before, unless that product has become
    part of a root-mean-square norm: then the norm's output is widened to float32 first. A reshape
    that changes nothing keeps the product that smooths outliers apart from the norm's.
    """
    from openvino import opset13

    for product in graph.get_ordered_ops():
        before = product.input_value(0) if product.get_input_size() else None
        if (
            before is None
            or "nncf_smooth_quant" not in product.get_friendly_name()
            or product.get_type_name() != "Multiply"
            or not _scales(before.get_node())
        ):
            continue
        width = before.get_partial_shape()[-1]
        if width.is_static:
            same = opset13.constant(np.array([0, -1, width.get_length()], dtype=np.int64))
            apart = opset13.reshape(before, same, True).output(0)
            product.input(0).replace_source_output(apart)


def _scales(node: Any) -> bool:
    """True for a norm's last operation: a product with its weights, or with one over the size."""
    if node.get_type_name() != "Multiply":
        return False
    for value in node.input_values():
        inner = value.get_node()
        while inner.get_type_name() == "Convert":
            inner = inner.input_value(0).get_node()
        # weights that are all 1 are left out of a graph
        if inner.get_type_name() in ("Constant", "Divide"):
            return True
    return False
