"""What a piece of work takes: time, memory, tokens and energy, for the note beside its result."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from dear.evaluate.energy import POWERCAP, counters, total

SAMPLE_S = 60.0
"""Seconds between readings of energy: at 1 kW a counter begins anew after four minutes."""

MIB = 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class Spent:
    """What was taken between entering and leaving a Meter.

    seconds: by the clock.  cpu_seconds: of all processors together, worker processes included.
        It, memory and energy are the process's: what other threads do meanwhile is in them.
    memory_mib: the most that the process and its workers ever held, loading included; None where
        the system does not say.  gpu_memory_mib: the same of PyTorch's tensors on GPUs.
    threads: PyTorch's, or the processors that the process may use.
    joules: by device (`energy_of`); None where nothing counts it, for the reasons given.
    """

    seconds: float
    cpu_seconds: float
    memory_mib: float | None
    gpu_memory_mib: float | None
    threads: int
    joules: float | None
    energy_of: Mapping[str, float]
    energy_missing: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """For a run's note."""
        return {
            "seconds": round(self.seconds, 3),
            "cpu_seconds": round(self.cpu_seconds, 3),
            "memory_mib": _rounded(self.memory_mib),
            "gpu_memory_mib": _rounded(self.gpu_memory_mib),
            "threads": self.threads,
            "energy": {
                "joules": _rounded(self.joules),
                "of": {name: round(value, 1) for name, value in self.energy_of.items()},
                "missing": list(self.energy_missing),
            },
        }


def together(parts: Sequence[Spent]) -> Spent:
    """Work that was done one after the other."""
    names = dict.fromkeys(name for part in parts for name in part.energy_of)
    joules = [part.joules for part in parts if part.joules is not None]
    return Spent(
        seconds=sum(part.seconds for part in parts),
        cpu_seconds=sum(part.cpu_seconds for part in parts),
        memory_mib=_most(part.memory_mib for part in parts),
        gpu_memory_mib=_most(part.gpu_memory_mib for part in parts),
        threads=max(part.threads for part in parts),
        joules=sum(joules) if len(joules) == len(parts) else None,
        energy_of={name: sum(part.energy_of.get(name, 0.0) for part in parts) for name in names},
        energy_missing=tuple(dict.fromkeys(r for part in parts for r in part.energy_missing)),
    )


class Meter:
    """Measures the block that it stands before.

        with Meter() as meter:
            ...
        meter.spent.to_dict()

    Entering and leaving read a few files. A thread wakes once a minute where energy is counted,
    and there is none where it is not.
    """

    def __init__(self, *, powercap: Path = POWERCAP, sample_s: float = SAMPLE_S) -> None:
        self._powercap, self._sample_s = powercap, sample_s
        self._spent: Spent | None = None
        self._done = threading.Event()
        self._sampler: threading.Thread | None = None

    @property
    def spent(self) -> Spent:
        """Once the block is left."""
        assert self._spent is not None
        return self._spent

    def __enter__(self) -> Meter:
        self._counters, self._missing = counters(self._powercap)
        for counter in self._counters:
            counter.update()
        if self._counters:
            self._sampler = threading.Thread(target=self._sample, name="dear-energy", daemon=True)
            self._sampler.start()
        self._cpu = _cpu_seconds()
        self._started = time.perf_counter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        seconds = time.perf_counter() - self._started
        if self._sampler is not None:
            self._done.set()
            self._sampler.join()
        for counter in self._counters:
            counter.update()
        self._spent = Spent(
            seconds=seconds,
            cpu_seconds=max(0.0, _cpu_seconds() - self._cpu),
            memory_mib=_peak_memory_mib(),
            gpu_memory_mib=_gpu_memory_mib(),
            threads=_threads(),
            joules=total(self._counters),
            energy_of={c.name: c.joules for c in self._counters},
            energy_missing=tuple(self._missing),
        )

    def _sample(self) -> None:
        while not self._done.wait(self._sample_s):
            for counter in self._counters:
                counter.update()


def stage(what: str, number: int, seconds: float, **more: float | None) -> dict[str, Any]:
    """One stage's work for a note: how many of `what`, how fast, and what else is known.

    Of `more`, `tokens` get a rate as well; what is None is not known, and says so.
    """
    tokens = more.get("tokens")
    return {
        what: number,
        "seconds": round(seconds, 3),
        f"{what}_per_second": _per(number, seconds),
        **more,
        **({} if tokens is None else {"tokens_per_second": _per(tokens, seconds)}),
    }


def _per(number: float, seconds: float) -> float:
    return round(number / max(seconds, 1e-9), 2)


def _most(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)


def _cpu_seconds() -> float:
    """Of this process, of those it waited for, and of workers that are alive."""
    times = os.times()
    own = times.user + times.system + times.children_user + times.children_system
    return own + sum(_of_workers(_worker_cpu_s))


def _peak_memory_mib() -> float | None:
    """The most this process ever held, plus the most of each worker that is alive."""
    own = _held_mib(os.getpid())
    if own is None:
        with contextlib.suppress(ImportError):  # no Linux
            import resource

            most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            own = most / (MIB if sys.platform == "darwin" else 1024)
    return None if own is None else own + sum(_of_workers(_held_mib))


def _of_workers(measure: Callable[[int], float | None]) -> list[float]:
    pids = [process.pid for process in multiprocessing.active_children()]
    found = [measure(pid) for pid in pids if pid is not None]
    return [value for value in found if value is not None]


def _held_mib(pid: int) -> float | None:
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return None


def _worker_cpu_s(pid: int) -> float | None:
    with contextlib.suppress(OSError, ValueError, IndexError):
        # the name in brackets may hold anything
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return None


def _gpu_memory_mib() -> float | None:
    # whoever computes on a GPU has loaded torch; nobody else pays for it here
    torch: Any = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    places = range(torch.cuda.device_count())
    return sum(float(torch.cuda.max_memory_allocated(i)) for i in places) / MIB


def _threads() -> int:
    torch: Any = sys.modules.get("torch")
    if torch is not None:
        return int(torch.get_num_threads())
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
