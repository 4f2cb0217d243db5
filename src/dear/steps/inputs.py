"""What steps read: runs by file or by name, with their texts, and what is there already."""

from __future__ import annotations

from pathlib import Path

from dear.data.collections import Collection, open_collection
from dear.data.formats import read_run
from dear.digests import Inputs
from dear.errors import ConfigError, DataError
from dear.records import Candidates, Judgements, Run, gather
from dear.steps.options import TOP_K


def find_run(collection: Collection, run: str, split: str) -> Path:
    """The file that `run` names: its path, or one of the collection's own runs of that split."""
    path = Path(run)
    if path.exists():
        return path
    own = collection.runs(split)
    if run in own:
        return own[run]
    there = f"its runs of split {split!r}: {', '.join(own)}" if own else f"it has none ({split!r})"
    raise DataError(
        f"no run {run!r}: no such file, and no run of {collection.name} ({there}); "
        "`dear retrieve` makes one"
    )


def read_runs(collection: Collection, runs: list[str], split: str) -> list[Run]:
    """The runs that these names or files are."""

    return [
        collection.run(run, split)
        if not Path(run).exists() and collection.makes_run(run)
        else read_run(find_run(collection, run, split), ties="written")
        for run in runs
    ]


def judged_candidates(
    collection: str, run: str, split: str
) -> tuple[list[Candidates], Judgements | None]:
    """The best 100 of each judged query of a run (of all, where nothing is judged), with the
    judgements."""

    opened = open_collection(collection)
    found = read_run(find_run(opened, run, split), ties="written")
    judgements = opened.judgements(split) if opened.has_judgements(split) else None
    asked = [q for q in found if judgements is None or q in judgements] or list(found)
    queries, corpus = opened.queries(), opened.corpus
    return [gather(found[q].top(TOP_K), queries, corpus) for q in asked], judgements


def gathered(collection: Collection, run: Run) -> list[Candidates]:
    """The run's queries and passages with their texts."""

    queries, corpus = collection.queries(), collection.corpus
    return [gather(ranking, queries, corpus) for ranking in run.values()]


def made_of_the_same(path: Path, there: Inputs, now: Inputs) -> None:
    """Nothing is done where what is there was made from the same. ConfigError: from something
    else."""
    found = there.changes(now)
    if found:
        raise ConfigError(
            f"{path} was made from other inputs ({found}); remove it to make it anew, or write "
            "elsewhere with --output"
        )
    if found.unverified:
        raise ConfigError(
            f"{path} is there already, and does not say what it was made from; remove it to "
            "make it anew"
        )
