"""Pairs of a label store that have no score, and why: `failed.jsonl` beside its shards.

The file is written before the shard that lacks its pairs. The next job of the store removes it and
tries them again; in the store of a share with the leaves that it names, which are written as a
whole or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from dear.artifacts import atomic_path
from dear.data.formats.rows import json_rows
from dear.errors import DataError, excerpt

FAILED = "failed.jsonl"


@dataclass(frozen=True, slots=True)
class Failure:
    """leaf: of the store's share; None without one."""

    query_id: str
    passage_id: str
    reason: str
    leaf: int | None = None

    def __str__(self) -> str:
        return f"query {excerpt(self.query_id)}, passage {excerpt(self.passage_id)}: {self.reason}"


def read_failures(folder: Path) -> list[Failure]:
    """Of a store; none without a file. DataError: a line that is none."""
    path = folder / FAILED
    if not path.is_file():
        return []
    found = []
    for row in json_rows(path):
        _, leaf = row.find("leaf") or ("leaf", None)
        if leaf is not None and type(leaf) is not int:
            raise row.error("'leaf' must be a whole number")
        ids = row.text("query_id"), row.text("passage_id")
        found.append(Failure(*ids, row.text("reason"), leaf))
    return found


def write_failures(folder: Path, failures: Sequence[Failure]) -> None:
    """All of them, in place of those that were there."""
    with atomic_path(folder / FAILED) as path:
        # in ASCII: a reason may quote half a character
        path.write_text("".join(f"{json.dumps(asdict(one))}\n" for one in failures))


def failures_error(folder: Path, failures: Sequence[Failure]) -> DataError:
    """What a job ends with."""
    number = len(failures)
    return DataError.at(
        folder / FAILED,
        None,
        f"{number:,} pair{'s' if number > 1 else ''} could not be scored ({failures[0]}); all "
        "others have their labels, and the same command tries again",
    )
