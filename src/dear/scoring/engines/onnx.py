"""ONNX Runtime's forward pass: on every processor and system, without PyTorch.

What it runs is a folder that `dear export --format onnx` wrote.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dear.checkpoints import processor
from dear.errors import DataError, MissingExtra
from dear.scoring.batching import Grid, Progress
from dear.scoring.encoding import Encoded
from dear.scoring.engines.streams import Feed, Streams, ThreadedRequest, shared_budget

GRAPH = "model.onnx"

BATCH_TOKENS = 2048
WIDTH = 8
"""Widths of batches are multiples of it: few shapes come again, so memory is used again."""


def load_onnxruntime() -> Any:
    """The package; MissingExtra without it."""
    try:
        import onnxruntime
    except ImportError:
        raise MissingExtra.of("onnxruntime", "onnx") from None
    return onnxruntime


class OnnxEngine:
    """One graph in a session of one thread, which every stream runs for itself.

    graph: the file of the graph, or its bytes.  longest: tokens of the longest sequence there may
    be.  threads: streams; see `dear.checkpoints.processor.threads` where None.
    """

    precision = "f32"
    """Of what is not quantised."""

    def __init__(
        self,
        graph: Path | bytes,
        *,
        pad_id: int,
        batch_tokens: int = BATCH_TOKENS,
        longest: int | None = None,
        threads: int | None = None,
    ) -> None:
        runtime = load_onnxruntime()
        self.streams = processor.threads() if threads is None else threads
        self.batch_tokens = batch_tokens
        self.grid = Grid(width=WIDTH, rows=1, longest=longest)
        settings = runtime.SessionOptions()
        settings.intra_op_num_threads = 1  # a stream is a thread
        settings.inter_op_num_threads = 1
        settings.log_severity_level = 3  # errors
        # else each stream keeps the memory of its largest batch for good
        settings.enable_cpu_mem_arena = False
        try:
            session = runtime.InferenceSession(
                graph if isinstance(graph, bytes) else str(graph),
                settings,
                providers=["CPUExecutionProvider"],
            )
        except Exception as error:  # its classes derive from nothing narrower
            name = "graph" if isinstance(graph, bytes) else graph
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise DataError.at(name, None, f"ONNX Runtime: {first}") from None
        pool = ThreadPoolExecutor(self.streams, thread_name_prefix="dear-onnx")
        run = partial(_run, session)
        self._streams = Streams(
            [ThreadedRequest(run, pool.submit) for _ in range(self.streams + 1)],
            inputs=[port.name for port in session.get_inputs()],
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
        budget: int | None = None,
    ) -> NDArray[np.float32]:
        """float32 (n,) logits, or (n, …) of another graph, in the order of `encoded`.

        more: inputs beside the tokens.  budget: in place of `batch_tokens`.
        """
        lengths = [len(one) for one in encoded]
        return self._streams.run(
            encoded,
            budget=shared_budget(lengths, budget or self.batch_tokens, self.streams),
            progress=progress,
            total=total,
            more=more,
        )


def _run(session: Any, feed: Feed) -> NDArray[np.float32]:
    return np.asarray(session.run(None, dict(feed))[0], dtype=np.float32)
