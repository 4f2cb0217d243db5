"""A hub's cache of tiny models that are called like public ones."""

from __future__ import annotations

import shutil
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class HubCache:
    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir()

    def add(self, hub: str, folder: Path | str) -> Path:
        """A copy of the model in `folder` as if it had been fetched; its snapshot."""
        repository = self.root / f"models--{hub.replace('/', '--')}"
        snapshot = repository / "snapshots" / COMMIT
        shutil.copytree(folder, snapshot)
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text(COMMIT)
        return snapshot
