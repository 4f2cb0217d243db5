"""One model on several devices: a process for each, and pairs dealt out to them.

Pipes of our own, because `concurrent.futures.ProcessPoolExecutor` does not say how a process died,
cannot end one at work before Python 3.14, and knows no progress within a task.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import signal
from collections import deque
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dear.checkpoints.contract import DType, ScoringContract
from dear.checkpoints.hardware import pick_device
from dear.checkpoints.threads import FairLock
from dear.errors import BackendError, ConfigError, ContractMismatch, DearError
from dear.notices import repeat
from dear.scoring.batching import Progress
from dear.scoring.encoding import Pair
from dear.scoring.worker import ERROR, PROGRESS, as_error, as_request, work

TASKS_A_WORKER = 4
"""Parts that a worker gets of a job: more balance the devices, fewer pad less."""

SMALLEST_TASK, LARGEST_TASK = 64, 32768
"""Pairs."""

PATIENCE_S = 5.0
"""What a process gets to end by itself."""


@dataclass(eq=False, slots=True)
class _Worker:
    device: str
    process: BaseProcess
    pipe: Connection
    task: slice | None = None
    done: int = 0


class ScorerPool:
    """A PairModel that scores on several devices at once.

        with ScorerPool("runs/pydocs/teacher", devices=["cuda:0", "cuda:1"]) as pool:
            scores = pool.score(pairs)

    model, and what is not named here: as for `open_model`, whose every kind of model works.
    devices: one process for each; a device may be named twice. Processes on the CPU divide
        PyTorch's threads among them.
    Scores are those of a single process, to the rounding of the dtype. Threads may share it: it
    does one job after the other, in the order in which they came. A script that makes a pool
    needs `if __name__ == "__main__":`, as for every process that Python spawns.
    Raises what `open_model` raises, ContractMismatch where "auto" means another dtype on each
    device, BackendError for a process that does not start.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        devices: Sequence[str],
        contract: ScoringContract | str | Path | None = None,
        dtype: DType = "auto",
        batch_tokens: int | None = None,
        revision: str | None = None,
        instruction: str | None = None,
        max_passage_tokens: int | None = None,
    ) -> None:
        if not devices:
            raise ConfigError("a pool needs one device or more")
        threads = _threads(devices)
        options = {
            "spec": str(model),
            "contract": contract.to_dict()
            if isinstance(contract, ScoringContract)
            else None
            if contract is None
            else str(contract),
            "dtype": dtype,
            "batch_tokens": batch_tokens,
            "revision": revision,
            "instruction": instruction,
            "max_passage_tokens": max_passage_tokens,
        }
        self._one_job = FairLock()
        self._workers: list[_Worker] = []
        try:
            for device, share in zip(devices, threads, strict=True):
                self._workers.append(_start(options | {"device": device, "threads": share}))
            found = self._meet()
        except BaseException:
            self.close(at_once=True)
            raise
        self.name: str = found["name"]
        self.revision: str = found["revision"]
        self.fingerprint: str = found["fingerprint"]
        self.parameters: int = found["parameters"]
        self.computing: dict[str, str] = found["computing"]
        stored = found["contract"]
        self.contract: Any = (
            stored if found["plain_contract"] else ScoringContract.from_dict(stored)
        )

    def score(self, pairs: Sequence[Pair], progress: Progress | None = None) -> NDArray[np.float32]:
        """float32 (n,) in the order given.

        Raises a worker's error once all have put down their work, and the pool can be used
        again; BackendError that names the device for a process that died, which ends the pool;
        ConfigError for a `progress` that scores with this pool, which is at work. An error of
        `progress` ends the pool.
        """
        if not pairs:
            return np.empty(0, dtype=np.float32)
        slots: dict[Pair, int] = {}
        back = [slots.setdefault(pair, len(slots)) for pair in pairs]
        if self._one_job.mine:
            raise ConfigError(f"{self.name}: `progress` scores with the pool that reports to it")
        with self._one_job:
            if not self._workers:
                raise self._closed()
            try:
                return self._deal(list(slots), len(pairs), progress)[back]
            except BaseException as error:
                # Ctrl-C, or an error in `progress`: what the processes say next is of this job
                working = any(worker.task is not None for worker in self._workers)
                if working or not isinstance(error, DearError):
                    self.close(at_once=True)
                raise

    def close(self, *, at_once: bool = False) -> None:
        """End the processes. Twice does no harm.

        at_once: in the middle of their work, too; else once other threads have their scores.
        """
        with nullcontext() if at_once else self._one_job:
            self._end(at_once=at_once)

    def _end(self, *, at_once: bool) -> None:
        workers, self._workers = self._workers, []
        for worker in workers:
            if at_once:
                # a thread that listens hears the end of the process, not that of its own pipe
                worker.process.terminate()
            else:
                worker.pipe.close()
        for worker in workers:
            for end in (worker.process.terminate, worker.process.kill):
                worker.process.join(PATIENCE_S)
                if worker.process.is_alive():
                    end()
            worker.process.join()
            worker.process.close()
            worker.pipe.close()

    def __enter__(self) -> ScorerPool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(at_once=error is not None)

    def _meet(self) -> dict[str, Any]:
        """What the model is, once every process has it."""
        waiting, found = list(self._workers), []
        while waiting:
            for worker in self._heard(waiting):
                kind, body = self._receive(worker)
                if kind == ERROR:
                    raise as_error(body)
                found.append(json.loads(body))
                waiting.remove(worker)
        repeat(found[0]["notices"])
        first, *others = (one["model"] for one in found)
        for other in others:
            if other != first:
                raise ContractMismatch(
                    f"{first['name']}: the devices would score differently "
                    f"({first['contract']} and {other['contract']}); set the dtype"
                )
        return dict(first)

    def _deal(
        self, pairs: list[Pair], total: int, progress: Progress | None
    ) -> NDArray[np.float32]:
        """Each worker takes the next task when it has finished one."""
        scores = np.empty(len(pairs), dtype=np.float32)
        tasks = deque(_tasks(pairs, len(self._workers)))
        finished = 0
        failure: DearError | None = None
        while True:
            for worker in self._workers:
                if tasks and worker.task is None:
                    worker.task = tasks.popleft()
                    self._send(worker, as_request(pairs[worker.task]))
            working = [worker for worker in self._workers if worker.task is not None]
            if not working:
                break
            for worker in self._heard(working):
                kind, body = self._receive(worker)
                if kind == PROGRESS:
                    worker.done = int(body)
                else:
                    task, worker.task, worker.done = worker.task, None, 0
                    if kind == ERROR:
                        failure = failure or as_error(body)
                        tasks.clear()
                    else:
                        scores[task] = np.frombuffer(body, dtype=np.float32)
                        finished += len(body) // scores.itemsize
            if progress is not None and failure is None:
                done = finished + sum(worker.done for worker in self._workers)
                progress(done * total // len(pairs), total)
        if failure is not None:
            raise failure
        return scores

    def _send(self, worker: _Worker, message: bytes) -> None:
        try:
            worker.pipe.send_bytes(message)
        except OSError:
            raise self._lost(worker) from None

    def _heard(self, workers: Sequence[_Worker]) -> list[_Worker]:
        """Those that have said something, or died; waits for the first."""
        try:
            pipes = wait([worker.pipe for worker in workers])
        except OSError:
            raise self._closed() from None
        return [worker for worker in workers if worker.pipe in pipes]

    def _receive(self, worker: _Worker) -> tuple[bytes, bytes]:
        """(letter, what follows it)"""
        try:
            message = worker.pipe.recv_bytes()
        except (EOFError, OSError):
            raise self._lost(worker) from None
        return message[:1], message[1:]

    def _closed(self) -> BackendError:
        return BackendError(f"{self.name}: the pool of processes is closed")

    def _lost(self, worker: _Worker) -> BackendError:
        if worker not in self._workers:  # another thread has closed the pool
            return self._closed()
        worker.process.join(PATIENCE_S)
        code = worker.process.exitcode
        device, when = worker.device, "before it was ready" if worker.task is None else "at work"
        self.close(at_once=True)
        how = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
        return BackendError(f"{device}: the process died {when} ({how}); is its memory too small?")


def _threads(devices: Sequence[str]) -> list[int]:
    """Of PyTorch on the CPU, for each process; 0 leaves a GPU's process as it is."""
    on_cpu = [pick_device(device).type == "cpu" for device in devices]
    share = max(1, torch.get_num_threads() // max(1, sum(on_cpu)))
    return [share if cpu else 0 for cpu in on_cpu]


def _start(options: dict[str, Any]) -> _Worker:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=work, args=(theirs, json.dumps(options)), daemon=True)
    process.start()
    theirs.close()  # the end of the process must be the end of the pipe
    return _Worker(options["device"], process, ours)


def _tasks(pairs: Sequence[Pair], workers: int) -> list[slice]:
    """Parts with about as much text, the longest first, so that the last to be done is short.

    Neighbours stay together: they share a query.
    """
    lengths = np.array([len(query) + len(passage) + 1 for query, passage in pairs])
    fewest = -(-len(pairs) // LARGEST_TASK)
    parts = max(1, fewest, min(workers * TASKS_A_WORKER, len(pairs) // SMALLEST_TASK))
    ends = lengths.cumsum()
    cuts = np.searchsorted(ends, ends[-1] * np.arange(1, parts) / parts)
    edges = np.unique([0, *cuts, len(pairs)]).tolist()
    tasks = [slice(a, b) for a, b in itertools.pairwise(edges)]
    return sorted(tasks, key=lambda task: -int(lengths[task].sum()))
