"""A collection and models on disk, made once."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import torch
from command_line import write_animals, write_reranker

# tiny models and lists
for beside in ("scoring", "train"):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / beside))


@pytest.fixture(autouse=True)
def one_thread() -> None:
    # tiny matrices: more threads only wait for each other
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def animals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read, never changed."""
    return write_animals(tmp_path_factory.mktemp("collections") / "animals")


@pytest.fixture(scope="session")
def reranker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read, never changed."""
    return write_reranker(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def mine(animals: Path, tmp_path: Path) -> Path:
    """A copy of the collection, to be damaged."""
    return Path(shutil.copytree(animals, tmp_path / "mine"))
