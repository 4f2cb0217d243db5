"""A training in two processes, as the command line starts it, of which one is killed."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import psutil

LAUNCH = ("--processes", "2")
PATIENCE_S = 60.0
POLL_S = 0.02


class Group:
    """The launcher and its two processes at one training."""

    def __init__(self, root: Path, folder: Path, threads: int) -> None:
        self.plan = folder / "steps" / "plan.json"
        self.log = root / "parallel.log"
        self.before_ns = self._written_ns()
        command = ["-m", "dear.cli", "train", str(root / "train.toml"), "--output", str(folder)]
        with self.log.open("wb") as log:
            self.launcher = subprocess.Popen(
                [sys.executable, *command, *LAUNCH],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | {"OMP_NUM_THREADS": str(max(threads // 2, 1))},
            )

    def wait_for_work(self) -> bool:
        """Until the plan is written, which follows the imports; False if it has ended before."""
        while self.launcher.poll() is None:
            if self._written_ns() > self.before_ns:
                return True
            time.sleep(POLL_S)
        return self._ended_well()

    def wait_to_end(self) -> None:
        self.launcher.wait()
        self._ended_well()

    def ends_within(self, seconds: float) -> bool:
        try:
            self.launcher.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        self._ended_well()
        return True

    def kill(self, dice: random.Random) -> tuple[str, float | None]:
        """SIGKILL for the launcher or one of its processes: (whom, seconds until all are gone).

        None where some are still there after PATIENCE_S; they are killed then.
        """
        launcher = psutil.Process(self.launcher.pid)
        workers = sorted(launcher.children(recursive=True), key=lambda p: p.pid)
        everyone = [launcher, *workers]
        number = dice.randrange(3) if len(everyone) > 2 else 0
        started = time.perf_counter()
        with contextlib.suppress(psutil.NoSuchProcess):
            everyone[number].kill()
        while time.perf_counter() - started < PATIENCE_S:
            self.launcher.poll()  # so that it is no zombie
            if not any(_is_alive(process) for process in everyone):
                return _NAMES[number], time.perf_counter() - started
            time.sleep(POLL_S)
        for process in everyone:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.launcher.wait()
        return _NAMES[number], None

    def last_line(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()
        return lines[-1] if lines else ""

    def _ended_well(self) -> bool:
        if self.launcher.returncode:
            raise SystemExit(f"the training ended with {self.launcher.returncode}: {self.log}")
        return False

    def _written_ns(self) -> int:
        try:
            return self.plan.stat().st_mtime_ns
        except FileNotFoundError:
            return 0


_NAMES = ("launcher", "first process", "second process")


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
