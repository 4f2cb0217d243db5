"""What the document allows and what it does not, sent to a real server: no answer is a fault."""

from __future__ import annotations

from pathlib import Path

import pytest
import schemathesis
from command_line import write_reranker
from hypothesis import HealthCheck, given, settings
from running_server import running
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance

pytestmark = [
    pytest.mark.ci,
    # of its own imports, and of what it generates
    pytest.mark.filterwarnings("ignore"),
]

CHECKS = [not_a_server_error, response_schema_conformance, status_code_conformance]


def test_no_answer_is_a_fault(tmp_path: Path) -> None:
    model = write_reranker(tmp_path / "model")
    with running(models=(str(model),), dtype="float32", max_client_batch_size=20) as served:
        schema = schemathesis.openapi.from_url(f"{served.url}/openapi.json")
        seen = 0
        for found in schema.get_all_operations():
            operation = found.ok()
            strategy = operation.as_strategy()

            @settings(
                max_examples=25, deadline=None, database=None, derandomize=True,
                suppress_health_check=list(HealthCheck),
            )  # fmt: skip
            @given(case=strategy)
            def asked(case: schemathesis.Case) -> None:
                case.call_and_validate(checks=CHECKS)

            asked()
            seen += 1
        assert seen > 20
        assert served.ask("/health").status == 200
