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
from dear.scoring.batching import ANY_SHAPE, Progress
from dear.scoring.encoding import Encoded
from dear.scoring.engines.streams import Feed, Streams, ThreadedRequest

GRAPH = "model.onnx"

BATCH_TOKENS = 2048
"""Tokens of a turn; see OnnxEngine for those of a batch."""


def load_onnxruntime() -> Any:
    """The package; MissingExtra without it."""
    try:
        import onnxruntime
    except ImportError:
        raise MissingExtra.of("onnxruntime", "onnx") from None
    return onnxruntime


class OnnxEngine:
    """One graph in a session of one thread, which every stream runs for itself.

    A batch holds one sequence: nothing is padded, which on a processor was measured to be faster
    (1.1 times in float32, 1.3 times in int8; docs/LOG.md), and a score depends on its pair alone,
    to the bit. What ONNX Runtime rounds to 8 bits, it rounds by batch.

    graph: the file of the graph, or its bytes.  threads: streams; see
    `dear.checkpoints.processor.threads` where None.
    """

    precision = "f32"
    """Of what is not quantised."""

    def __init__(
        self,
        graph: Path | bytes,
        *,
        pad_id: int,
        batch_tokens: int = BATCH_TOKENS,
        threads: int | None = None,
    ) -> None:
        runtime = load_onnxruntime()
        self.streams = processor.threads() if threads is None else threads
        self.batch_tokens = batch_tokens
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
            grid=ANY_SHAPE,
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
        return self._streams.run(encoded, budget=1, progress=progress, total=total, more=more)


def _run(session: Any, feed: Feed) -> NDArray[np.float32]:
    return np.asarray(session.run(None, dict(feed))[0], dtype=np.float32)
