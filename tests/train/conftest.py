"""What the tests of training share."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from dear.data.collections import Collection
from tiny_training import collection, save_bert, save_llama, write_labels

# the tiny models of the tests of models
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scoring"))


@pytest.fixture(autouse=True)
def one_thread() -> None:
    # tiny matrices: more threads only wait for each other
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny() -> Collection:
    return collection()


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_bert(tmp_path_factory.mktemp("models") / "tiny-bert")


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_llama(tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.fixture(scope="session")
def labels(tmp_path_factory: pytest.TempPathFactory, tiny: Collection) -> str:
    return write_labels(tmp_path_factory.mktemp("labels") / "overlap", tiny)
