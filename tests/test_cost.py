"""What work takes: a real process for time and memory, real files for energy."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from dear.evaluate.cost import Counter, Meter, counters, nvml, rapl, stage


def zone(powercap: Path, name: str, called: str, microjoules: int, end: int = 10**9) -> Path:
    """A RAPL zone as Linux shows it."""
    folder = powercap / name
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{called}\n")
    (folder / "max_energy_range_uj").write_text(f"{end}\n")
    return count_to(folder, microjoules)


def count_to(folder: Path, microjoules: int) -> Path:
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    return folder


@pytest.fixture
def powercap(tmp_path: Path) -> Path:
    """Two packages, the second with its cores and its memory; the platform, which holds both."""
    zone(tmp_path, "intel-rapl:0", "package-0", 1_000_000)
    zone(tmp_path, "intel-rapl:1", "package-1", 999_000_000)
    zone(tmp_path, "intel-rapl:1:0", "core", 5)
    zone(tmp_path, "intel-rapl:1:1", "dram", 0)
    zone(tmp_path, "intel-rapl:2", "psys", 7)
    zone(tmp_path, "intel-rapl-mmio:0", "package-0", 1_000_000)
    return tmp_path


def test_energy_is_counted_once_and_past_the_counters_end(powercap: Path) -> None:
    with Meter(powercap=powercap) as meter:
        for name in os.listdir(powercap):
            count_to(powercap / name, 3_500_000)
    spent = meter.spent
    assert spent.energy_of == pytest.approx(
        {"package-0": 2.5, "package-1": 1.0 + 3.5, "dram 1": 3.5}
    )
    assert spent.joules == pytest.approx(10.5)
    assert spent.to_dict()["energy"]["joules"] == 10.5


def test_long_work_is_sampled_between_two_ends(tmp_path: Path) -> None:
    """Without samples, two rounds of the counter would be none."""
    package = zone(tmp_path, "intel-rapl:0", "package-0", 0, end=100_000_000)
    with Meter(powercap=tmp_path, sample_s=0.005) as meter:
        for microjoules in (60_000_000, 20_000_000, 80_000_000, 0):
            # another name: a sample must not find the file half written
            (package / "next").write_text(f"{microjoules}\n")
            (package / "next").replace(package / "energy_uj")
            time.sleep(0.2)
    assert meter.spent.joules == pytest.approx(60 + 60 + 60 + 20)


def test_a_thread_only_where_energy_is_counted(powercap: Path, tmp_path: Path) -> None:
    with Meter(powercap=tmp_path / "nothing"):
        assert "dear-energy" not in {t.name for t in threading.enumerate()}
    with Meter(powercap=powercap):
        assert "dear-energy" in {t.name for t in threading.enumerate()}
    assert "dear-energy" not in {t.name for t in threading.enumerate()}


def test_no_energy_says_why(tmp_path: Path) -> None:
    with Meter(powercap=tmp_path) as meter:
        pass
    energy = meter.spent.to_dict()["energy"]
    assert energy["joules"] is None
    assert energy["of"] == {}
    assert energy["missing"] == [f"processor: no RAPL counters in {tmp_path}"]


def test_a_counter_that_may_not_be_read_says_so(powercap: Path) -> None:
    # root may read everything: a folder in its place cannot be read by anyone
    path = powercap / "intel-rapl:0" / "energy_uj"
    path.unlink()
    path.mkdir()
    found, reason = rapl(powercap)
    assert [c.name for c in found] == ["package-1", "dram 1"]
    assert reason is not None
    assert "cannot be read" in reason
    assert "intel-rapl:0" in reason


def test_a_counter_that_goes_away_keeps_what_it_counted(powercap: Path) -> None:
    (found, *_), _ = counters(powercap)
    found.update()
    count_to(powercap / "intel-rapl:0", 2_000_000)
    found.update()
    (powercap / "intel-rapl:0" / "energy_uj").unlink()
    found.update()
    assert found.joules == pytest.approx(1.0)
    count_to(powercap / "intel-rapl:0", 4_000_000)
    found.update()
    assert found.joules == pytest.approx(3.0)


def test_a_counter_without_an_end_never_runs_backwards() -> None:
    readings = iter([5.0, 7.0, 1.0, 2.0])
    counter = Counter("gpu 0", lambda: next(readings))
    for _ in range(4):
        counter.update()
    assert counter.joules == pytest.approx(3.0)


def test_no_gpu_needs_no_excuse() -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("a GPU is here: its energy is counted, or NVML says why not")
    assert nvml() == ([], None)


def test_time_and_memory_of_a_real_process(tmp_path: Path) -> None:
    code = """
import sys, time
from pathlib import Path
from dear.evaluate.cost import Meter
with Meter() as before:
    pass
with Meter() as meter:
    held = bytearray(200 * 2**20)
    until = time.process_time() + 0.3
    while time.process_time() < until:
        pass
    time.sleep(0.2)
spent = meter.spent
assert spent.seconds >= 0.5, spent
assert 0.25 <= spent.cpu_seconds <= spent.seconds, spent
assert 190 < spent.memory_mib - before.spent.memory_mib < 260, (before.spent, spent)
assert spent.gpu_memory_mib is None
assert spent.threads >= 1
assert "torch" not in sys.modules and "numpy" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr


def _hold(pipe: object) -> None:
    held = bytearray(150 * 2**20)
    until = time.process_time() + 0.3
    while time.process_time() < until:
        pass
    pipe.send(len(held))  # type: ignore[attr-defined]
    pipe.recv()  # type: ignore[attr-defined]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="other systems do not say")
def test_workers_count() -> None:
    context = multiprocessing.get_context("spawn")
    with Meter() as alone:
        pass
    ours, theirs = context.Pipe()
    worker = context.Process(target=_hold, args=(theirs,), daemon=True)
    with Meter() as meter:
        worker.start()
        ours.recv()
    ours.send(None)
    worker.join()
    assert alone.spent.memory_mib is not None
    assert meter.spent.memory_mib is not None
    assert meter.spent.memory_mib > alone.spent.memory_mib + 140
    assert meter.spent.cpu_seconds > 0.25


def test_a_meter_reads_a_few_files_and_no_more(
    powercap: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    inner = Path.read_text

    def counted(path: Path, *words: Any, **options: Any) -> str:
        read.append(path.name)
        return inner(path, *words, **options)

    monkeypatch.setattr(Path, "read_text", counted)
    with Meter(powercap=powercap):
        entering = len(read)
        read.clear()
    # five zones' names; of the three that count the range, whether they can be read, and the count
    assert entering == 5 + 3 * 3
    # leaving: three counts; processes that other tests left running have a status of their own
    assert read.count("energy_uj") == 3
    assert set(read) == {"energy_uj", "status"}


def test_an_error_leaves_no_thread_behind(powercap: Path) -> None:
    with pytest.raises(ValueError, match="mine"), Meter(powercap=powercap) as meter:
        raise ValueError("mine")
    assert meter.spent.seconds < 10
    assert "dear-energy" not in {t.name for t in threading.enumerate()}


def test_a_stage_says_what_is_not_known() -> None:
    assert stage("pairs", 30, 2.0, tokens=100, dollars=None) == {
        "pairs": 30,
        "seconds": 2.0,
        "pairs_per_second": 15.0,
        "tokens": 100,
        "dollars": None,
        "tokens_per_second": 50.0,
    }
    assert "tokens_per_second" not in stage("pairs", 30, 2.0, tokens=None)
