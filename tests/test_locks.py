"""Locks between processes, and a system that has none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dear import locks
from dear.errors import DataError

TAKE = """
import sys
from dear import locks
file = open(sys.argv[1], "a")
print(locks.lock(file.fileno(), shared=sys.argv[2] == "shared"), flush=True)
sys.stdin.read()
"""


def holding(path: Path, how: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", TAKE, str(path), how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_one_process_has_it_until_it_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with path.open("w") as mine, holding(path, "alone") as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "True\n"
        assert not locks.lock(mine.fileno())
        assert not locks.lock(mine.fileno(), shared=True)
        other.kill()
        other.wait(60)
        assert locks.lock(mine.fileno())
    with path.open("w") as mine, holding(path, "shared") as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "True\n"
        assert locks.lock(mine.fileno(), shared=True)
        other.communicate("", timeout=60)


class OfWindows:
    """msvcrt's side of it, over one file."""

    LK_LOCK, LK_NBLCK = 1, 2

    def __init__(self) -> None:
        self.tries = 0

    def locking(self, file: int, mode: int, count: int) -> None:
        self.tries += 1
        if self.tries % 2:
            raise OSError(13, "Permission denied")


def test_on_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "_fcntl", None)
    monkeypatch.setattr(locks, "_msvcrt", OfWindows())
    with (tmp_path / "lock").open("w") as file:
        file.write("something")
        file.flush()
        assert not locks.lock(file.fileno())
        assert locks.lock(file.fileno())
        assert locks.lock(file.fileno(), wait=True)
        assert not locks.lock(file.fileno(), shared=True)
        assert file.tell() == len("something")
        monkeypatch.setattr(locks, "_msvcrt", None)
        with pytest.raises(DataError, match="no locks"):
            locks.lock(file.fileno())


def test_all_of_it_is_imported_without_fcntl() -> None:
    code = (
        "import sys; sys.modules['fcntl'] = None\n"
        "import importlib, pkgutil, dear\n"
        "for module in pkgutil.walk_packages(dear.__path__, 'dear.'):\n"
        "    if not module.name.endswith('__main__'):\n"
        "        importlib.import_module(module.name)\n"
        "print('imported')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.stdout.endswith("imported\n"), done.stderr[-2000:]
