"""What is given to the program to harm it runs in a process of its own, under two ceilings.

A ceiling is ten times what the attack takes today, with room for the start of the program: it
tells a bounded answer from one that grows with the input, not a fast machine from a slow one.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest

TABLE = "DEAR_ATTACKS_TABLE"
"""A file that one JSON line an attack is added to; `benchmarks/attacks.py` reads it."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a process under attack ended.

    status: as subprocess has it: -N after signal N.
    seconds: processor time of the process and its waited-for children.
    mebibytes: its highest resident memory, as it was last seen. (What wait4 tells begins with the
        memory of the process that started it.)
    """

    status: int
    out: str
    err: str
    seconds: float
    mebibytes: float

    def line(self, *expected: str) -> str:
        """The one line of the error that the attack ended with; it holds every `expected`.

        A refusal is exit status 2 or 1 with exactly one line on standard error and no traceback.
        """
        lines = [line for line in self.err.splitlines() if line.strip()]
        assert self.status in (1, 2), (self.status, self.err[-2000:])
        assert "Traceback" not in self.err, self.err[-2000:]
        assert len(lines) == 1, lines
        for words in expected:
            assert words in lines[0], lines[0]
        return lines[0]


def attack(
    *argv: str | os.PathLike[str],
    seconds: float,
    mebibytes: float,
    stdin: str | bytes | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Ended:
    """Run `argv`; past `seconds` of processor time or `mebibytes` of memory it is killed.

    Both ceilings are enforced from outside: memory is read from /proc every few milliseconds, and
    a process that waits (for standard input, a FIFO, a server) is killed after ten times `seconds`
    by the clock. AssertionError: a ceiling was met.
    """
    words = [os.fspath(word) for word in argv]
    surroundings = {**os.environ, **(env or {})}
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        given = None if stdin is None else stdin.encode() if isinstance(stdin, str) else stdin
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL if given is None else subprocess.PIPE,
            stdout=out,
            stderr=err,
            env=surroundings,
            cwd=cwd,
            start_new_session=True,
        )
        if given is not None:
            threading.Thread(target=_write, args=(process.stdin, given), daemon=True).start()
        started = time.monotonic()
        met, most = "", 0.0
        status: int | None = None
        while status is None:
            pid, raw, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                status = os.waitstatus_to_exitcode(raw)
                break
            used, resident = _of_now(process.pid)
            most = max(most, resident)
            if used > seconds:
                met = f"more than {seconds} s of processor time"
            elif resident > mebibytes:
                met = f"more than {mebibytes} MiB"
            elif time.monotonic() - started > 10 * seconds:
                met = f"no end after {10 * seconds} s"
            if met:
                os.killpg(process.pid, signal.SIGKILL)
                _, raw, usage = os.wait4(process.pid, 0)
                status = os.waitstatus_to_exitcode(raw)
                break
            time.sleep(0.005)
        process.returncode = status
        ended = Ended(
            status=status,
            out=_text(out),
            err=_text(err),
            seconds=usage.ru_utime + usage.ru_stime,
            mebibytes=most,
        )
    _record(ended, seconds, mebibytes, met)
    assert not met, (met, words[:12], ended.err[-2000:])
    assert ended.seconds <= seconds, (ended.seconds, words[:12])
    assert ended.mebibytes <= mebibytes, (ended.mebibytes, words[:12])
    return ended


def attack_dear(*words: object, seconds: float, mebibytes: float, **how: object) -> Ended:
    """`attack` on the command line of this checkout."""
    argv: Sequence[str] = [sys.executable, "-m", "dear", *map(str, words)]
    return attack(*argv, seconds=seconds, mebibytes=mebibytes, **how)  # type: ignore[arg-type]


def attack_python(code: str, *words: object, seconds: float, mebibytes: float) -> Ended:
    """`attack` on a few lines of Python; `words` are its sys.argv[1:]."""
    argv = [sys.executable, "-c", code, *map(str, words)]
    return attack(*argv, seconds=seconds, mebibytes=mebibytes)


def linear(code: str, *, sizes: tuple[int, int] = (250_000, 1_000_000), times: float = 10) -> None:
    """`code` reads `text`, made by its own `make(n)`: four times the length, about four times as
    long. It defines `make` and `read`; processor time of the larger is at most `times` that of the
    smaller, or under half a second. Run in a process of its own, killed after 60 seconds.
    """
    timed = (
        f"{code}\nimport time\nfound = []\nfor n in {sizes}:\n"
        "    text = make(n)\n    a = time.process_time()\n    read(text)\n"
        "    found.append(time.process_time() - a)\nprint(*found)\n"
    )
    small, large = map(float, attack_python(timed, seconds=60, mebibytes=2000).out.split()[-2:])
    assert large <= max(0.5, times * small), (small, large)


def _write(pipe: IO[bytes] | None, given: bytes) -> None:
    assert pipe is not None
    try:
        with pipe:
            pipe.write(given)
    except BrokenPipeError:
        pass  # it ended without reading


def _of_now(pid: int) -> tuple[float, float]:
    """(processor seconds, highest resident MiB so far) of a process that runs."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0, 0.0
    ticks = os.sysconf("SC_CLK_TCK")
    peak = status.partition("VmHWM:")[2].split()  # absent once it has ended
    return (int(stat[11]) + int(stat[12])) / ticks, int(peak[0]) / 1024 if peak else 0.0


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read(50_000_000).decode("utf-8", "replace")


def _record(ended: Ended, seconds: float, mebibytes: float, met: str) -> None:
    table = os.environ.get(TABLE)
    if not table:
        return
    row = {
        "test": os.environ.get("PYTEST_CURRENT_TEST", "").partition(" ")[0],
        "seconds": round(ended.seconds, 2),
        "mebibytes": round(ended.mebibytes),
        "ceilings": [seconds, mebibytes],
        "status": ended.status,
        "met": met,
    }
    with Path(table).open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


proof_only = pytest.mark.skipif(
    TABLE not in os.environ, reason="benchmarks/attacks.py runs the heavy attacks"
)
