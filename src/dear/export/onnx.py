"""Models as ONNX graphs, in float32 or int8: one logit a pair, embeddings, weights of terms.

Every export is checked against the checkpoint's own forward pass before it is kept.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import torch

from dear.artifacts import whole_files, write_json
from dear.digests import Inputs
from dear.errors import BackendError, ConfigError, MissingExtra
from dear.export.encoders import Bits
from dear.export.sources import Exportable, GraphSource, graph_source
from dear.scoring.encoding import Pair
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
    calibration: Sequence[Pair] = (),
    inputs: Inputs | None = None,
) -> None:
    """Write `model` to `folder` as a graph that ONNX Runtime runs.

    model: in float32, on the CPU, its adapter merged.
    word_bits: its embeddings of words are kept in so many bits, and other weights, though they are
        computed with in float32, in 8; all stay what they are where None.
    calibration: not looked at: 8 bits are set while a graph runs.
    inputs: what it is made from, to be written down.
    ConfigError for a model whose graph does not give its own scores; nothing is left then.
    """
    onnx = load_onnx()
    with graph_source(model, word_bits) as source:
        graph = onnx_graph(model.name, source)
        require_same(model.name, source, graph)
    if dtype == "int8":
        graph = in_int8(graph)
    elif word_bits is not None:
        _keep_in_bytes(graph, set(_products(graph).values()))
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


def onnx_graph(name: str, source: GraphSource) -> Any:
    """A module as an `onnx.ModelProto`, batch and tokens of any size.

    BackendError for a module that PyTorch cannot write.
    """
    load_onnx()
    # one token is not traced: PyTorch takes a size of 1 for a constant; the graph computes it
    batch, terms = (torch.export.Dim(n, min=1, max=1 << 20) for n in ("batch", "terms"))
    tokens = torch.export.Dim("tokens", min=2, max=source.longest)
    shapes = {
        key: {0: terms} if key == "terms" else {0: batch, 1: tokens} for key in source.example
    }
    try:
        with _silent(), torch.no_grad():
            # not left to torch.onnx, which would fall back to fixed shapes
            program = torch.export.export(
                source.module.eval(), (), dict(source.example), dynamic_shapes=shapes, strict=False
            )
            found = torch.onnx.export(
                program,
                dynamo=True,
                input_names=list(source.example),
                opset_version=OPSET,
                verbose=False,
            )
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BackendError(f"{name}: PyTorch cannot write this model as ONNX: {first}") from error
    assert found is not None
    return found.model_proto


def in_int8(graph: Any) -> Any:
    """The graph with its products in 8 bits: weights when it is written, by column; activations
    while it runs, by sequence, since ONNX Runtime's engine runs one at a time. So a score depends
    on its pair alone, and no pairs are needed to calibrate.

    Weights take 7 of the bits: processors without VNNI add two products in 16 bits, which would
    saturate. So the products are the same whole numbers on every processor.

    Products that narrow, such as the second of a feed-forward layer, are computed in float32: their
    inputs come out of an activation function, a few numbers far above the others, and half of the
    error was theirs (docs/LOG.md). Their weights are kept in 8 bits.
    """
    onnx = load_onnx()
    from onnxruntime.quantization import QuantType, quantize_dynamic

    narrow = _products(graph, narrowing=True)
    with TemporaryDirectory() as folder, _silent():
        path = Path(folder) / GRAPH
        quantize_dynamic(
            graph,
            path,
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["MatMul"],
            nodes_to_exclude=list(narrow),
            extra_options={"MatMulConstBOnly": True},  # not the products of attention
        )
        found = onnx.load(path)
    _keep_in_bytes(found, set(narrow.values()))
    return found


def _products(graph: Any, *, narrowing: bool = False) -> dict[str, str]:
    """Name of each product with a weight → the weight's name; but a head's, which has one column.
    narrowing: those alone that have fewer numbers out than in."""
    shapes = {one.name: tuple(one.dims) for one in graph.graph.initializer}
    return {
        node.name: node.input[1]
        for node in graph.graph.node
        if node.op_type == "MatMul"
        and len(shape := shapes.get(node.input[1], ())) == 2
        and shape[1] > 1
        and (shape[0] > shape[1] or not narrowing)
    }


def _keep_in_bytes(graph: Any, names: set[str]) -> None:
    """Weights in 8 bits with a scale for each column; ONNX Runtime widens them as it loads them."""
    onnx = load_onnx()
    for one in [w for w in graph.graph.initializer if w.name in names]:
        weight = onnx.numpy_helper.to_array(one)
        scale = np.maximum(np.abs(weight).max(0, keepdims=True), 1e-12).astype(np.float32) / 127
        codes = np.round(weight / scale).astype(np.int8)
        graph.graph.initializer.remove(one)
        parts = {f"{one.name}_codes": codes, f"{one.name}_scale": scale}
        graph.graph.initializer.extend(
            onnx.numpy_helper.from_array(array, name) for name, array in parts.items()
        )
        wide = f"{one.name}_wide"
        nodes = [
            onnx.helper.make_node("Cast", [f"{one.name}_codes"], [wide], to=onnx.TensorProto.FLOAT),
            onnx.helper.make_node("Mul", [wide, f"{one.name}_scale"], [one.name]),
        ]
        for at, node in enumerate(nodes):
            graph.graph.node.insert(at, node)


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
