"""Models as ONNX graphs, in float32 or int8: one logit a pair, embeddings, weights of terms.

Every export is checked against the checkpoint's own forward pass before it is kept.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from dear.artifacts import whole_files, write_json
from dear.digests import Inputs
from dear.errors import BackendError, ConfigError, MissingExtra
from dear.export.encoders import Bits
from dear.export.sources import Exportable, GraphSource, graph_source
from dear.scoring.engines.onnx import GRAPH, OnnxEngine
from dear.scoring.exported import EXPORT_FILE, graph_digest

OPSET = 20
"""The newest whose operations all of ONNX Runtime's processors had in 2025."""

TOLERANCE = 2e-4
"""Largest difference from the module, in float32, in units of 1 + |value|."""


def export_onnx(
    model: Exportable,
    folder: Path,
    dtype: Literal["float32", "int8"],
    *,
    word_bits: Bits | None = None,
    inputs: Inputs | None = None,
) -> None:
    """Write `model` to `folder` as a graph that ONNX Runtime runs.

    model: in float32, on the CPU, its adapter merged.  word_bits: of its embeddings of words; they
        stay what they are where None.
    inputs: what it is made from, to be written down.
    ConfigError for a model whose graph does not give its own scores; nothing is left then.
    """
    onnx = load_onnx()
    with graph_source(model, word_bits) as source:
        graph = onnx_graph(model.name, source.module, source.example)
        require_same(model.name, source, graph)
    if dtype == "int8":
        graph = in_int8(graph)
    folder.mkdir(parents=True, exist_ok=True)
    with whole_files(folder, last=EXPORT_FILE) as building:
        onnx.save(graph, str(building / GRAPH))
        source.write_beside(building, dtype)
        write_json(
            building / EXPORT_FILE,
            {
                "format": "onnx",
                **source.about(dtype),
                "precision": "f32",
                **({} if word_bits is None else {"word_bits": word_bits}),
                "onnx": onnx.__version__,
                **({} if inputs is None else {"inputs": inputs.to_dict()}),
                "graph": graph_digest([building / GRAPH]),
            },
        )


def load_onnx() -> Any:
    """The package; MissingExtra without it or what PyTorch writes graphs with."""
    try:
        import onnx
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingExtra.of(error.name or "onnx", "export") from None
    return onnx


def onnx_graph(name: str, module: nn.Module, example: Mapping[str, torch.Tensor]) -> Any:
    """A module as an `onnx.ModelProto`, batch and tokens of any size.

    example: its arguments by name, int64: (B, T) but for `terms`, which is (K,).
    BackendError for a module that PyTorch cannot write.
    """
    load_onnx()
    batch, tokens, terms = (torch.export.Dim(n, min=1, max=1 << 20) for n in "btk")
    shapes = {key: {0: terms} if key == "terms" else {0: batch, 1: tokens} for key in example}
    try:
        with _silent(), torch.no_grad():
            program = torch.onnx.export(
                module.eval(),
                kwargs=dict(example),
                dynamo=True,
                dynamic_shapes=shapes,
                input_names=list(example),
                opset_version=OPSET,
                verbose=False,
            )
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BackendError(f"{name}: PyTorch cannot write this model as ONNX: {first}") from error
    assert program is not None
    return program.model_proto


def in_int8(graph: Any) -> Any:
    """The graph with its products in 8 bits: weights when it is written, by column; activations
    while it runs, by sequence, since ONNX Runtime's engine runs one at a time. So a score depends
    on its pair alone, and no pairs are needed to calibrate.

    Weights take 7 of the bits: processors without VNNI add two products in 16 bits, which would
    saturate. So the products are the same whole numbers on every processor.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with TemporaryDirectory() as folder, _silent():
        path = Path(folder) / GRAPH
        quantize_dynamic(
            graph,
            path,
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["MatMul"],
            extra_options={"MatMulConstBOnly": True},  # not the products of attention
        )
        return load_onnx().load(path)


def require_same(name: str, source: GraphSource, graph: Any) -> None:
    """ConfigError unless the graph gives what the module does, at lengths that it does not know."""
    engine = OnnxEngine(graph.SerializeToString(), pad_id=0, threads=1)
    mine = engine.run(source.probe, more=source.more)
    theirs = np.stack([source.alone(one) for one in source.probe])
    worst = float(np.max(np.abs(mine - theirs) / (1 + np.abs(theirs))))
    if not worst <= TOLERANCE:
        raise ConfigError(
            f"{name}: the exported graph is off the model by {worst:.2g}; this architecture cannot "
            "be exported"
        )


@contextmanager
def _silent() -> Iterator[None]:
    """The writers talk to the log, to standard output and through warnings."""
    talkers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "root")]
    levels = [talker.level for talker in talkers]
    for talker in talkers:
        talker.setLevel(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            redirect_stdout(StringIO()),
            redirect_stderr(StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        for talker, level in zip(talkers, levels, strict=True):
            talker.setLevel(level)
