"""Attacks on the command line use the small collection and models of its tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "cli"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All of them are for `.ci/run`: each starts a process, under ceilings."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.ci)
