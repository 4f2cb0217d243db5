"""One command, several processes: started, watched and ended together.

Each gets the environment that torchrun would give it, so that whoever has a launcher of their own
may use that instead. torch.distributed's own launcher loads torch before it starts anything, and
does not say of a dead process what became of it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dear.errors import BackendError, ConfigError

LAUNCHED = "DEAR_LAUNCHED"
"""What tells a process that somebody watches over it."""

PORT = 29400
"""Where the machines of a training meet, if the address names no port."""

PROGRAM = (sys.executable, "-m", "dear")

_GOES_ON = "the same command goes on from the last whole checkpoint"
_LOOK_S = 0.05
_OWN_WORDS_S = 3.0
"""An error that all share is told by the first process, which may not be the first to end."""
_END_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Launch:
    """Which processes to start here, and where all of them meet.

    processes: on this machine, of `nodes` alike.  address: of the first machine, HOST[:PORT].
    on_cpu: hide the GPUs from them.
    """

    processes: int
    nodes: int = 1
    node_rank: int = 0
    address: str | None = None
    on_cpu: bool = False

    def environments(self) -> list[dict[str, str]]:
        """What is added to the environment of each process. ConfigError: no such place."""
        if self.processes < 1 or self.nodes < 1:
            raise ConfigError("a training needs at least one process and one node")
        if not 0 <= self.node_rank < self.nodes:
            raise ConfigError(
                f"--node-rank {self.node_rank}: {self.nodes} nodes are numbered from 0"
            )
        if self.nodes > 1 and self.address is None:
            raise ConfigError(f"{self.nodes} nodes need --main-address HOST, that of node 0")
        host, port = self._meeting()
        first = self.node_rank * self.processes
        shared = {
            "MASTER_ADDR": host,
            "MASTER_PORT": str(port),
            "WORLD_SIZE": str(self.processes * self.nodes),
            "LOCAL_WORLD_SIZE": str(self.processes),
            "GROUP_RANK": str(self.node_rank),
            LAUNCHED: "1",
        }
        if self.on_cpu:
            shared["CUDA_VISIBLE_DEVICES"] = ""
        return [
            {**shared, "RANK": str(first + i), "LOCAL_RANK": str(i)} for i in range(self.processes)
        ]

    def _meeting(self) -> tuple[str, int]:
        if self.address is None:
            return "127.0.0.1", _free_port()
        host, colon, port = self.address.partition(":")
        if not host or (colon and not port.isdigit()):
            raise ConfigError(f"--main-address {self.address!r}: expected HOST or HOST:PORT")
        return host, int(port) if colon else PORT


def require_gpus(count: int) -> None:
    """ConfigError: this machine has fewer."""
    import torch

    there = torch.cuda.device_count()
    if count > there:
        raise ConfigError(
            f"--gpus {count}, and PyTorch sees {there} on this machine; --processes {count} "
            "trains on its CPU"
        )


def launch(arguments: Sequence[str], places: Launch, *, program: Sequence[str] = PROGRAM) -> int:
    """Run `dear` with `arguments` in every place; the exit status, 0 if all ended well.

    The first process talks to the user. As soon as one has died the others are ended, too.
    BackendError: one has died without a word to the user. Interrupting this ends all of them.
    """
    environments = places.environments()
    with tempfile.TemporaryDirectory(prefix="dear-") as folder:
        started: list[subprocess.Popen[bytes]] = []
        try:
            for i, extra in enumerate(environments):
                started.append(
                    _start([*program, *arguments], extra, None if i == 0 else _log(folder, i))
                )
            return _watch(started, Path(folder), int(environments[0]["RANK"]), places)
        finally:
            _end(started)


def _start(
    command: Sequence[str], extra: dict[str, str], log: Path | None
) -> subprocess.Popen[bytes]:
    # C++ warnings of the first seconds, when processes look for each other
    surroundings = {"TORCH_CPP_LOG_LEVEL": "ERROR", **os.environ, **extra}
    share = max(1, (os.cpu_count() or 1) // int(extra["LOCAL_WORLD_SIZE"]))
    surroundings.setdefault("OMP_NUM_THREADS", str(share))
    with contextlib.ExitStack() as stack:
        said = None if log is None else stack.enter_context(log.open("wb"))
        return subprocess.Popen(
            command,
            env=surroundings,
            stdin=subprocess.DEVNULL,
            stdout=None if log is None else subprocess.DEVNULL,
            stderr=said,
            # an interrupt at the keyboard is this process's, which ends the others
            start_new_session=True,
        )


def _watch(
    started: Sequence[subprocess.Popen[bytes]], folder: Path, first: int, places: Launch
) -> int:
    while not any(ended := [process.poll() for process in started]):
        if None not in ended:
            return 0
        time.sleep(_LOOK_S)
    failed = next(i for i, status in enumerate(ended) if status)
    status, told = started[failed].returncode, started[0]
    if status > 0:
        with contextlib.suppress(subprocess.TimeoutExpired):
            told.wait(_OWN_WORDS_S)
    if told.returncode is not None and told.returncode > 0:
        return told.returncode
    raise _lost(failed, status, folder, first, places)


def _lost(failed: int, status: int, folder: Path, first: int, places: Launch) -> BackendError:
    which = f"process {first + failed} of {places.processes * places.nodes}"
    if status < 0:
        return BackendError(f"{which} was killed ({signal.Signals(-status).name}); {_GOES_ON}")
    lines = _log(str(folder), failed).read_text(errors="replace").strip().splitlines()
    said = next((line for line in reversed(lines) if line.startswith("dear: ")), "")
    words = said.removeprefix("dear: ").removeprefix("error: ") or f"ended with status {status}"
    return BackendError(f"{which}: {words}; {_GOES_ON}")


def _end(started: Sequence[subprocess.Popen[bytes]]) -> None:
    alive = [process for process in started if process.poll() is None]
    for process in alive:
        process.terminate()
    until = time.monotonic() + _END_S
    for process in alive:
        try:
            process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _log(folder: str, number: int) -> Path:
    return Path(folder) / f"{number}.log"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
