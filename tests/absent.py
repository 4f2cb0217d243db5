"""What a test needs and does not find."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn

import pytest

NOT_INSTALLED = Path(sys.prefix) / "without-weights"
"""What `make` leaves where the registry lacks the packages of weights."""


def absent(what: str) -> NoReturn:
    """Skips the test; in CI, where `make` has installed it, fails it."""
    if os.environ.get("CI") and not NOT_INSTALLED.exists():
        pytest.fail(what, pytrace=False)
    pytest.skip(what)
