"""What work takes: time, memory, tokens, energy.

Energy counters are those that the machine offers: processors through RAPL, GPUs through NVML. Both
count whatever runs on the device, other people's work included.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

SAMPLE_S = 60.0
"""Seconds between readings of energy: at 1 kW a counter begins anew after four minutes."""

POWERCAP = Path("/sys/class/powercap")

_PACKAGE = re.compile(r"intel-rapl:\d+")  # of AMD's processors, too
_PART = re.compile(r"intel-rapl:\d+:\d+")


@dataclass(slots=True)
class Counter:
    """A counter of energy that begins anew at `wraps_at`; None: it never does.

    read: joules on the counter; None when it cannot be read any more.
    """

    name: str
    read: Callable[[], float | None]
    wraps_at: float | None = None
    last: float | None = None
    joules: float = 0.0

    def update(self) -> None:
        """Add what was used since the last call; the first sets the mark."""
        now = self.read()
        if now is not None and self.last is not None:
            used = now - self.last
            if used < 0 and self.wraps_at is not None:
                used += self.wraps_at
            self.joules += max(0.0, used)
        self.last = now if now is not None else self.last


def counters(powercap: Path = POWERCAP) -> tuple[list[Counter], list[str]]:
    """(what can be read, why other energy cannot be)."""
    processor, no_processor = rapl(powercap)
    gpu, no_gpu = nvml()
    return [*processor, *gpu], [reason for reason in (no_processor, no_gpu) if reason]


def rapl(powercap: Path = POWERCAP) -> tuple[list[Counter], str | None]:
    """Counters of processor packages and of memory that lies outside them.

    Cores and graphics are part of a package, and `psys` holds the packages: none is counted twice.
    """
    found: list[Counter] = []
    refused: str | None = None
    for zone in sorted(powercap.glob("intel-rapl:*")):
        name = _text(zone / "name") or ""
        package = _PACKAGE.fullmatch(zone.name) is not None and name.startswith("package")
        memory = _PART.fullmatch(zone.name) is not None and name == "dram"
        if not (package or memory):
            continue
        counter = _zone(zone, name if package else f"{name} {zone.name.split(':')[1]}")
        if counter.read() is None:
            refused = f"{zone / 'energy_uj'} cannot be read; as root: chmod a+r it"
        else:
            found.append(counter)
    if found or refused:
        return found, refused
    return [], f"processor: no RAPL counters in {powercap}"


def _zone(zone: Path, name: str) -> Counter:
    def read() -> float | None:
        text = _text(zone / "energy_uj")
        return int(text) / 1e6 if text is not None and text.isdigit() else None

    end = _text(zone / "max_energy_range_uj")
    return Counter(name, read, int(end) / 1e6 if end is not None and end.isdigit() else None)


def nvml() -> tuple[list[Counter], str | None]:
    """A counter for each GPU that this process uses; no reason where it uses none."""
    # whoever computes on a GPU has loaded torch; nobody else pays for it here
    torch: Any = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return [], None
    try:
        driver = importlib.import_module("pynvml")
        driver.nvmlInit()
        found: list[Counter] = []
        for index in range(torch.cuda.device_count()):
            if torch.cuda.max_memory_reserved(index):
                uuid = torch.cuda.get_device_properties(index).uuid
                handle = driver.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
                counter = Counter(f"gpu {index}", _millijoules(driver, handle))
                if counter.read() is None:
                    return found, f"GPU {index}: its driver counts no energy"
                found.append(counter)
    except ImportError:
        return [], "GPU: pynvml is not installed (pip install nvidia-ml-py)"
    except Exception as error:  # whatever NVML raises: no number of ours is worth the work
        return [], f"GPU: NVML says {error}"
    return found, None


def _millijoules(driver: Any, handle: Any) -> Callable[[], float | None]:
    def read() -> float | None:
        try:
            return float(driver.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1e3
        except driver.NVMLError:
            return None

    return read


def total(found: Sequence[Counter]) -> float | None:
    """Joules of all counters; None where there is none."""
    return sum(c.joules for c in found) if found else None


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None


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
