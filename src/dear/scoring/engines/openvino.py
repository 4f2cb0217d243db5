"""OpenVINO's forward pass: the fastest on an x86 processor, in float32, bfloat16 or int8.

What it runs is a folder that `dear export` wrote; no PyTorch weights are loaded.
"""

from __future__ import annotations

import contextlib
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dear.checkpoints.hardware import cpu_has_tiles
from dear.checkpoints.threads import FairPool
from dear.errors import DataError, MissingExtra
from dear.scoring.batching import Grid, Progress, collate, token_batches
from dear.scoring.encoding import Encoded

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
    threads: processors to use; as many as PyTorch's threads where None.
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
        if threads is None:
            threads = torch.get_num_threads()
        self.pad_id = pad_id
        self.batch_tokens = batch_tokens
        width = TILED_WIDTH if cpu_has_tiles() else WIDTH
        self.grid = Grid(width=width, rows=1, longest=longest)
        core = ov.Core()
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
        self._inputs = {port.any_name for port in self._compiled.inputs}
        self.streams = threads
        # not OpenVINO's own queue, which may hand one request to two threads; one more than there
        # are streams, so that none of them waits for its next batch to be made
        self._requests: FairPool[Any] = FairPool(
            self._compiled.create_infer_request() for _ in range(threads + 1)
        )

    def run(
        self,
        encoded: Sequence[Encoded],
        progress: Progress | None = None,
        total: int | None = None,
    ) -> NDArray[np.float32]:
        """float32 (n,) logits in the order of `encoded`."""
        scores = np.empty(len(encoded), dtype=np.float32)
        total = len(encoded) if total is None else total
        done = 0
        lengths = [len(e) for e in encoded]
        budget = shared_budget(lengths, self.batch_tokens, self.streams)
        at_work: deque[tuple[Any, list[int]]] = deque()

        def finish() -> None:
            nonlocal done
            request, rows = at_work.popleft()
            try:
                request.wait()
                scores[rows] = request.get_output_tensor(0).data
            finally:
                self._requests.give(request)
            done += len(rows)
            if progress is not None:
                progress(done * total // len(encoded), total)

        try:
            for rows in token_batches(lengths, budget, self.grid):
                feed = self._feed([encoded[i] for i in rows])
                # nobody waits for a request who holds one: so all of them come back
                while (request := self._requests.take_free()) is None and at_work:
                    finish()
                request = self._requests.take() if request is None else request
                try:
                    request.start_async(feed)
                except BaseException:
                    self._requests.give(request)
                    raise
                at_work.append((request, rows))
            while at_work:
                finish()
        finally:
            for request, _ in at_work:  # of an error's batch, or of `progress`
                with contextlib.suppress(RuntimeError):
                    request.wait()
                self._requests.give(request)
        return scores

    def _feed(self, encoded: Sequence[Encoded]) -> Mapping[str, NDArray[np.int64]]:
        ids, mask, types = collate(
            encoded, pad_id=self.pad_id, width=self.grid.widened(max(map(len, encoded)))
        )
        feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
        return {name: tensor.numpy() for name, tensor in feed.items() if name in self._inputs}


def shared_budget(lengths: Sequence[int], budget: int, streams: int) -> int:
    """Tokens in a batch, `budget` or fewer, so that every stream gets as many batches.

    With few batches it counts: 1.5 of them on two streams take as long as 2.
    """
    total = sum(lengths)
    batches = -(-total // budget)
    batches = -(-batches // streams) * streams
    if not batches:
        return budget
    # a batch holds whole sequences, so it ends up to one below the budget
    return min(budget, -(-total // batches) + max(lengths) // 2)


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
