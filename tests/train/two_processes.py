"""Work in several processes on one machine, as a launcher starts it."""

from __future__ import annotations

import multiprocessing
import os
import socket
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kills import PRELOADED


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def together(folder: Path, work: Callable[..., None], *arguments: Any, processes: int = 2) -> None:
    """Run `work` in several processes; fails with what the first to fail had to say."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    port = free_port()
    folder.mkdir(parents=True, exist_ok=True)
    started = [
        context.Process(target=_one, args=(rank, processes, port, folder, work, arguments))
        for rank in range(processes)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join(timeout=300)
    hangs = [process.exitcode is None for process in started]
    for process in started:
        process.kill()
    errors = [path.read_text() for path in sorted(folder.glob("error-*"))]
    assert not errors, "\n".join(errors)
    assert not any(hangs), f"it hangs: {hangs}"
    assert all(process.exitcode == 0 for process in started)


def _one(
    rank: int,
    processes: int,
    port: int,
    folder: Path,
    work: Callable[..., None],
    arguments: tuple[Any, ...],
) -> None:
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(processes),
        LOCAL_WORLD_SIZE=str(processes),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        OMP_NUM_THREADS="1",
    )
    import torch

    torch.set_num_threads(1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            work(*arguments)
    except BaseException:
        (folder / f"error-{rank}").write_text(traceback.format_exc())
        raise
