"""Checkpoints to export, and a small collection to certify them on."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

for beside in ("scoring", "cli"):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / beside))


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def animals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read, never changed."""
    from command_line import write_animals

    return write_animals(tmp_path_factory.mktemp("collections") / "animals")


@pytest.fixture
def reranker(tmp_path: Path) -> Path:
    """One that the test may change."""
    from command_line import write_reranker

    return write_reranker(tmp_path / "source")
