"""Runs by file or by name, and places that can be written."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from dear.cli.output import summary
from dear.data.collections import open_collection
from dear.data.formats import read_run
from dear.digests import Inputs
from dear.errors import ConfigError, DataError
from dear.records import gather

if TYPE_CHECKING:
    from dear.data.collections import Collection
    from dear.records import Candidates, Judgements, Run

TOP_K = 100

RunOption: TypeAlias = Annotated[
    str, typer.Option(metavar="RUN", help="A run's file, or one of the collection's own runs.")
]
SplitOption: TypeAlias = Annotated[
    str, typer.Option(metavar="SPLIT", help="Of the run and the queries.")
]


MeasureOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--measure",
        metavar="M",
        help="Such as MAP; may be repeated, the first is compared. Without it, nDCG@10 is.",
    ),
]
MinGradeOption: TypeAlias = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Lowest grade that is relevant in MRR, MAP, R: 1, unless the collection says another.",
    ),
]
FirstStageOption: TypeAlias = Annotated[
    str | None,
    typer.Option(metavar="RUN", help="The run that was reranked, where nothing beside it says."),
]
AcrossOption: TypeAlias = Annotated[
    bool, typer.Option("--across-candidates", help="Compare runs over different candidates, too.")
]
PublishedOption: TypeAlias = Annotated[
    bool, typer.Option("--published", help="Put beside what others published; not measured here.")
]


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


def candidates_of(
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


def check_output(path: Path) -> None:
    """DataError, before any work is done, where `path` could not be written at the end."""
    if path.is_dir():
        raise DataError.at(path, None, "is a folder, a file is to be written here")
    if path.exists() and not path.is_file():
        return
    check_folder(Path(os.path.realpath(path)).parent, path)


def check_folder(folder: Path, named: Path | None = None) -> None:
    """DataError where no file can be made in `folder`; missing folders are made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        place = error.filename or folder
        reason = (
            f"{place} is no folder"
            if isinstance(error, FileExistsError | NotADirectoryError)
            else error.strerror
        )
        raise DataError.at(named or folder, None, f"cannot be written: {reason}") from None


def there_already(path: Path, there: Inputs, now: Inputs) -> None:
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
    summary(f"{path}: made from the same inputs; nothing was done")


def gathered(collection: Collection, run: Run) -> list[Candidates]:
    """The run's queries and passages with their texts."""

    queries, corpus = collection.queries(), collection.corpus
    return [gather(ranking, queries, corpus) for ranking in run.values()]
