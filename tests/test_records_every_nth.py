"""Every n-th: few, evenly spread, never more than asked for."""

from __future__ import annotations

import pytest

from dear.records import every_nth


@pytest.mark.parametrize(
    ("count", "expected"),
    [(1, [0]), (3, [0, 3, 6]), (9, list(range(9))), (10, list(range(10))), (99, list(range(10)))],
)
def test_every_nth(count: int, expected: list[int]) -> None:
    assert every_nth(range(10), count) == expected
