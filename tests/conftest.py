"""What every test may use."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from hub_cache import HubCache
from object_storage import ObjectStorage, served

os.environ["HF_HUB_OFFLINE"] = "1"

# a busy machine is not a failure; every run draws others, so that many runs look at many examples
settings.register_profile("dear", deadline=None, max_examples=40)
settings.load_profile("dear")


@pytest.fixture(scope="session", autouse=True)
def no_lines_for_slow_work() -> Iterator[None]:
    """On a busy machine a command would say how far it is where a test expects one line."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dear.cli.progress.FIRST_LINE_S", math.inf)
        yield


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HubCache:
    """The cache that the hub's library reads, empty: no public model is on this machine."""
    cache = HubCache(tmp_path / "hub")
    for module in ("huggingface_hub.constants", "huggingface_hub.file_download"):
        monkeypatch.setattr(f"{module}.HF_HUB_CACHE", str(cache.root), raising=False)
    monkeypatch.delenv("DEAR_MODELS", raising=False)
    return cache


@pytest.fixture
def s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStorage]:
    """A server of its own, with an empty bucket `bucket`; a cache of its own, too."""
    monkeypatch.setenv("DEAR_CACHE", str(tmp_path / "cache"))
    with served() as storage:
        for name, value in storage.environment.items():
            monkeypatch.setenv(name, value)
        storage.forget()
        yield storage
        storage.forget()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `gpu` are skipped where PyTorch sees none."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="PyTorch sees no GPU"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of test collections: DEAR_SHARED_DATA, else shared/data beside the repository."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("DEAR_SHARED_DATA") or beside)
    if not folder.is_dir():
        if os.environ.get("DEAR_SHARED_DATA"):
            pytest.fail(f"DEAR_SHARED_DATA: {folder} is no folder", pytrace=False)
        pytest.skip(f"no test collections: {folder} is no folder; set DEAR_SHARED_DATA")
    return folder
