"""The collection and the model of the steps' tests, and a Ray of two machines."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

for beside in ("cli", "scoring", "train"):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / beside))


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


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    """Two machines of one core each, as far as Ray can tell; its address is in RAY_ADDRESS."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("OMP_NUM_THREADS", "1")
        # Ray's workers are nice (15): on a machine that is busy they would hardly start
        patch.setenv("RAY_worker_niceness", "0")
        # workers know what the tests know
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
        from ray.cluster_utils import Cluster

        try:
            machines = Cluster(
                initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
            )
            machines.add_node(num_cpus=1)
        except Exception as error:  # whatever Ray raises: it waits 30 s for a node, busy or not
            pytest.skip(f"Ray starts no node on this machine: {error}")
        patch.setenv("RAY_ADDRESS", machines.address)
        yield machines
        machines.shutdown()


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """As the workers have."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture
def log(tmp_path: Path) -> Callable[[], list[str]]:
    """The lines that workers wrote to `log` in the test's folder."""
    return lambda: (tmp_path / "log").read_text().splitlines()
