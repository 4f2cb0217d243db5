"""What the processor may be used for."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from dear.checkpoints.hardware import cpu_has_bfloat16


@pytest.mark.skipif(not cpu_has_bfloat16(), reason="this processor has no bfloat16 to leave out")
def test_bfloat16_that_may_not_be_used_does_not_count() -> None:
    code = "from dear.checkpoints.hardware import *; print(cpu_has_bfloat16(), usable_cores())"
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "1"]
