"""Attacks on the command line use the small collection and models of its tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "cli"))

BY_HAND = ("test_disks", "test_signals", "test_telemetry", "test_texts")
"""Too long for CI."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The others are for `.ci/run`: each starts a process, under ceilings."""
    for item in items:
        if HERE in item.path.parents:
            by_hand = item.path.stem in BY_HAND
            item.add_marker(pytest.mark.by_hand if by_hand else pytest.mark.ci)
