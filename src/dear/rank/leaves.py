"""The rankings of a job's leaves that are done, beside the run until all of them are: where the
same command goes on after it was stopped."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from dear import locks
from dear.artifacts import read_json, write_json
from dear.digests import Inputs
from dear.errors import ConfigError, DataError
from dear.records import Ranking, RankingCost

_JOB = "job.json"
_FORMAT = "dear-ranked-leaves/1"


@dataclass(frozen=True, slots=True)
class RankedLeaf:
    """rankings: of its queries, by id, with what they cost.  tokens: counted by the model."""

    rankings: Sequence[Ranking]
    tokens: Mapping[str, int]


class RankedLeaves:
    """Leaves by number; use `ranked_leaves`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, leaf: int) -> RankedLeaf | None:
        """None: not done yet. DataError: damaged."""
        path = self._path(leaf)
        if not path.exists():
            return None
        values = read_json(path)
        try:
            rankings = [
                Ranking(
                    query_id=one["query_id"],
                    passage_ids=tuple(one["passage_ids"]),
                    scores=tuple(one["scores"]),
                    cost=RankingCost(**one["cost"]),
                )
                for one in values["rankings"]
            ]
            return RankedLeaf(rankings, dict(values["tokens"]))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            problem = f"is damaged ({error!r}); remove it, and its leaf is ranked again"
            raise DataError.at(path, None, problem) from None

    def write(self, leaf: int, done: RankedLeaf) -> None:
        """Whole or not at all."""
        rankings = [
            {
                "query_id": one.query_id,
                "passage_ids": one.passage_ids,
                "scores": one.scores,
                "cost": asdict(one.cost or RankingCost()),
            }
            for one in done.rankings
        ]
        write_json(self._path(leaf), {"tokens": dict(done.tokens), "rankings": rankings})

    def _path(self, leaf: int) -> Path:
        return self.folder / f"leaf-{leaf:06d}.json"


@contextmanager
def ranked_leaves(run: Path, inputs: Inputs) -> Iterator[RankedLeaves]:
    """In `RUN.leaves`, for this process alone; the folder goes when the block ends well.

    inputs: what the rankings are made from. ConfigError: those there are of something else.
    DataError: another process works on them.
    """
    folder = run.with_name(f"{run.name}.leaves")
    folder.mkdir(exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        if not locks.lock(lock.fileno()):
            raise DataError.at(folder, None, "another process is writing rankings here")
        if any(folder.glob("leaf-*.json")):
            there = Inputs.from_dict(read_json(folder / _JOB).get("inputs", {}))
            if found := there.changes(inputs):
                raise ConfigError(
                    f"{folder} holds rankings of a job that was stopped, and that was another one "
                    f"({found}); remove it, or write elsewhere with --output"
                )
        write_json(folder / _JOB, {"format": _FORMAT, "inputs": inputs.to_dict()})
        yield RankedLeaves(folder)
    # Windows removes no file that is open
    shutil.rmtree(folder)
