"""A collection and a model on disk, and a check that nothing is printed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

# the collection of the command line's tests, tiny models and lists
for beside in ("cli", "scoring", "train", "backends"):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / beside))


@pytest.fixture(autouse=True)
def one_thread() -> None:
    # tiny matrices: more threads only wait for each other
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def animals(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Read, never changed."""
    from command_line import write_animals

    return str(write_animals(tmp_path_factory.mktemp("collections") / "animals"))


@pytest.fixture(scope="session")
def reranker(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Read, never changed."""
    from command_line import write_reranker

    return str(write_reranker(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture
def silent(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Fails where the test prints anything."""
    yield
    assert capfd.readouterr() == ("", "")
