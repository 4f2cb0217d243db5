"""What a power cut would leave: which files are on the disk (fsync), and which only in memory."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


class Disk:
    """Watches `os.fsync`, `os.replace` and `os.unlink`, which still do what they do.

    A file is durable as it was when it was last synced; a name is when its folder was synced
    after it was given.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._synced: dict[tuple[int, int], bytes | list[str]] = {}
        self._watch: list[Callable[[Path], None]] = []
        self.syncs = 0
        fsync, replace = os.fsync, os.replace

        def watched_fsync(descriptor: Any) -> None:
            fsync(descriptor)
            self.syncs += 1
            number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
            about = os.fstat(number)
            self._synced[about.st_dev, about.st_ino] = _content(Path(f"/proc/self/fd/{number}"))

        def watched_replace(source: Any, target: Any, **options: Any) -> None:
            for tell in self._watch:
                tell(Path(source))
            replace(source, target, **options)

        monkeypatch.setattr(os, "fsync", watched_fsync)
        monkeypatch.setattr(os, "replace", watched_replace)

    def before_a_name_is_given(self, tell: Callable[[Path], None]) -> None:
        """Call `tell` with the temporary file just before it takes another's place."""
        self._watch.append(tell)

    def holds(self, path: Path) -> bool:
        """Whether a power cut now would leave this file with all its bytes, under its name."""
        return self.holds_bytes(path) and self.holds_name(path)

    def holds_bytes(self, path: Path) -> bool:
        return self._last(path) == path.read_bytes()

    def holds_name(self, path: Path) -> bool:
        return path.name in (self._last(path.parent) or [])

    def _last(self, path: Path) -> Any:
        about = path.stat()
        return self._synced.get((about.st_dev, about.st_ino))


def _content(path: Path) -> bytes | list[str]:
    return os.listdir(path) if path.is_dir() else path.read_bytes()
