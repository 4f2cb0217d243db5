"""A graph whose products with weights are made in 8 bits, where 8 bits hold their input."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import nn

from dear.checkpoints.heads import HEAD_PARTS
from dear.checkpoints.layers import has_weights
from dear.checkpoints.threads import exclusive
from dear.errors import MissingExtra
from dear.scoring.batching import collate
from dear.scoring.encoding import Encoded, Pair, PairEncoder
from dear.scoring.engines.openvino import load_openvino
from dear.scoring.loading import ScoringModel

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
