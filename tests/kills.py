"""Processes that die as `kill -9` kills them, at the moment that a test names."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import socket
import time
from collections.abc import Callable
from typing import Any

PRELOADED = ["dear.label", "dear.train.pointwise", "transformers.models.bert.modeling_bert", "peft"]
"""Imported once, by the server that all processes are forked from: a fresh start takes seconds."""


HANGS_S = 600.0
"""What takes so long waits for something that does not come."""


def in_a_process(work: Callable[..., None], *arguments: Any) -> int:
    """Run `work` in a process of its own; its exit code, -9 if it was killed."""
    process = _started(work, arguments)
    process.join(timeout=HANGS_S)
    assert process.exitcode is not None, "it hangs"
    return process.exitcode


def killed_when(ready: Callable[[], bool], work: Callable[..., Any], *arguments: Any) -> None:
    """Run `work` in a process of its own and end it with SIGKILL as soon as `ready()`."""
    process = _started(work, arguments)
    until = time.monotonic() + HANGS_S
    while not ready():
        assert process.exitcode is None, "it ended before it was killed"
        assert time.monotonic() < until, "it hangs"
        time.sleep(0.002)
    process.kill()
    process.join(timeout=10)
    assert process.exitcode == -signal.SIGKILL


def in_processes(count: int, work: Callable[..., None], *arguments: Any) -> list[int]:
    """Run `work(rank, …)` in processes of one group, as torchrun starts them; their exit codes.

    None of them may live on for more than a minute when one has ended.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    group = [_started(_as_rank, (rank, count, port, work, arguments)) for rank in range(count)]
    multiprocessing.connection.wait([process.sentinel for process in group], timeout=HANGS_S)
    for process in group:
        process.join(timeout=60)
    hanging = [rank for rank, process in enumerate(group) if process.exitcode is None]
    for rank in hanging:
        group[rank].kill()
    assert not hanging, f"processes {hanging} hang"
    return [process.exitcode for process in group]


def _as_rank(
    rank: int, count: int, port: int, work: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    os.environ.update({name: str(value) for name, value in place.items()})
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    work(rank, *arguments)


def _started(work: Callable[..., None], arguments: tuple[Any, ...]) -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=work, args=arguments)
    process.start()
    return process


def die() -> None:
    """Nothing is cleaned up, nothing is caught."""
    os.kill(os.getpid(), signal.SIGKILL)


def dies_at(call: int, function: Callable[..., Any], *, after: bool = False) -> Callable[..., Any]:
    """`function`, but its `call`-th call (1 is the first) kills the process, before or after."""
    calls = 0

    def replacement(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call and not after:
            die()
        result = function(*arguments, **options)
        if calls == call:
            die()
        return result

    return replacement
