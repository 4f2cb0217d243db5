"""Energy counters that the machine offers: processors through RAPL, GPUs through NVML.

Both count whatever runs on the device, other people's work included.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
