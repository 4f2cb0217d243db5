"""OpenVINO's forward pass: the fastest on an x86 processor, in float32, bfloat16 or int8.

What it runs is a folder that `dear export` wrote; no PyTorch weights are loaded.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dear.checkpoints import processor
from dear.errors import DataError, MissingExtra
from dear.scoring.batching import Grid, Progress
from dear.scoring.encoding import Encoded
from dear.scoring.engines.streams import Feed, Streams, shared_budget

GRAPH = "openvino_model.xml"
WEIGHTS = "openvino_model.bin"

BATCH_TOKENS = 2048

WIDTH = 8
TILED_WIDTH = 16
"""Widths of batches are multiples of it, on AMX of the second: a new shape costs planning, which
counts for one query at a time (docs/LOG.md)."""


def load_openvino() -> Any:
    """The package; MissingExtra without it.

    It and NNCF would send reports, of their import and of each conversion, and write an identifier
    into the home folder, without asking: without `openvino_telemetry` they do neither.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # no such module
    try:
        import openvino
    except ImportError:
        raise MissingExtra.of("openvino", "openvino") from None
    return openvino


class OpenVINOEngine:
    """One compiled graph, with a stream for each processor.

    graph: the file of the graph, or a graph in memory.
    precision: "f32" or "bf16", in which everything is to compute that is not quantised; the
        attribute says in which it does.
    longest: tokens of the longest sequence there may be.
    threads: processors to use; see `dear.checkpoints.processor.threads` where None.
    """

    def __init__(
        self,
        graph: Path | Any,
        *,
        pad_id: int,
        precision: str,
        batch_tokens: int = BATCH_TOKENS,
        longest: int | None = None,
        threads: int | None = None,
    ) -> None:
        ov = load_openvino()
        threads = processor.threads() if threads is None else threads
        self.batch_tokens = batch_tokens
        width = TILED_WIDTH if processor.processor_kind() == "amx" else WIDTH
        self.grid = Grid(width=width, rows=1, longest=longest)
        core = ov.Core()
        if not processor.multiplies_bfloat16():
            # OpenVINO would compute in bfloat16 all the same, by a tenth of the speed and less
            precision = "f32"
        settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": threads,
            # batches side by side, one on each processor: nobody waits for the other's threads
            "NUM_STREAMS": threads,
        }
        try:
            model = core.read_model(str(graph)) if isinstance(graph, Path) else graph.clone()
            separate_gates(model)
            self._compiled = core.compile_model(model, "CPU", settings)
        except RuntimeError as error:
            name = graph if isinstance(graph, Path) else "graph"
            raise DataError.at(name, None, f"OpenVINO: {_first(error)}") from None
        # asked for is one thing: a processor without bfloat16 computes in float32
        in_force = self._compiled.get_property("INFERENCE_PRECISION_HINT")
        self.precision: str = in_force.get_type_name()
        self.streams = threads
        # not OpenVINO's own queue, which may hand one request to two threads
        self._streams = Streams(
            [_Request(self._compiled.create_infer_request()) for _ in range(threads + 1)],
            inputs=[port.any_name for port in self._compiled.inputs],
            pad_id=pad_id,
            grid=self.grid,
        )

    def run(
        self,
        encoded: Sequence[Encoded],
        progress: Progress | None = None,
        total: int | None = None,
        *,
        more: Feed | None = None,
    ) -> NDArray[np.float32]:
        """float32 (n,) logits, or (n, …) of another graph, in the order of `encoded`.

        more: inputs beside the tokens.
        """
        lengths = [len(one) for one in encoded]
        return self._streams.run(
            encoded,
            budget=shared_budget(lengths, self.batch_tokens, self.streams),
            progress=progress,
            total=total,
            more=more,
        )


class _Request:
    """One of OpenVINO's."""

    def __init__(self, request: Any) -> None:
        self._request = request

    def start(self, feed: Feed) -> None:
        self._request.start_async(dict(feed))

    def wait(self) -> NDArray[np.float32]:
        self._request.wait()
        return np.array(self._request.get_output_tensor(0).data, dtype=np.float32)


def separate_gates(graph: Any) -> int:
    """Keep gated feed-forward products (SwiGLU) out of OpenVINO's fused operation; how many.

    On a processor with AMX it divides by zero in bfloat16 and ends the process where a stream has
    one thread (2026.4). A bound beyond all numbers hides the product from it, and costs nothing:
    it becomes part of the product before.
    """
    from openvino import opset13

    found = 0
    for product in graph.get_ordered_ops():
        if product.get_type_name() != "MatMul":
            continue
        gated = product.input_value(0)
        factors = [value.get_node().get_type_name() for value in gated.get_node().input_values()]
        if gated.get_node().get_type_name() != "Multiply" or "MatMul" not in factors:
            continue
        largest = float(np.finfo(np.float32).max)
        apart = opset13.clamp(gated, -largest, largest).output(0)
        product.input(0).replace_source_output(apart)
        found += 1
    return found


def _first(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
