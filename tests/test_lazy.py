"""Modules that load on first use."""

from __future__ import annotations

import subprocess
import sys

import pytest

import dear.scoring
from dear.lazy import attribute

LIGHT = ("dear.scoring", "dear.listwise", "dear.checkpoints", "dear.evaluate", "dear.steps")


def test_a_module_is_there_when_it_is_asked_for() -> None:
    assert dear.scoring.opening.open_model is attribute("dear.scoring.opening:open_model")
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = dear.scoring.nothing


def test_packages_and_their_options_load_nothing_heavy() -> None:
    program = (
        f"import sys, dear.steps.options, {', '.join(LIGHT)}; "
        "sys.exit(any(m in sys.modules for m in ('numpy', 'scipy', 'ir_measures', 'torch')))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_reranking_loads_no_scipy_of_its_own() -> None:
    program = "import sys, dear.steps.rerank; sys.exit('scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
