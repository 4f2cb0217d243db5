"""Runs by file or by name, and the note beside a run that says where it came from."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from dear.artifacts import read_json, write_json
from dear.errors import DataError

if TYPE_CHECKING:
    from dear.data.collections import Collection
    from dear.records import Candidates, Judgements, Run

FORMAT = "dear-run/1"
TOP_K = 100

RunOption: TypeAlias = Annotated[
    str, typer.Option(metavar="RUN", help="A run's file, or one of the collection's own runs.")
]
SplitOption: TypeAlias = Annotated[
    str, typer.Option(metavar="SPLIT", help="Of the run and the queries.")
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
    from dear.data.formats import read_run

    return [read_run(find_run(collection, run, split)) for run in runs]


def candidates_of(
    collection: str, run: str, split: str
) -> tuple[list[Candidates], Judgements | None]:
    """The best 100 of each judged query of a run (of all, where nothing is judged), with the
    judgements."""
    from dear.data.collections import open_collection
    from dear.data.formats import read_run
    from dear.records import gather

    opened = open_collection(collection)
    found = read_run(find_run(opened, run, split))
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """What the note beside a run says.

    model: None for a first stage's own run.  first_stage: the run that was reranked.
    top_k: candidates of each query that were.
    """

    model: str | None
    first_stage: Path | None
    top_k: int | None
    values: Mapping[str, Any]


def note_path(run: Path) -> Path:
    """RUN.json beside RUN."""
    return run.with_name(f"{run.name}.json")


def write_origin(run: Path, values: Mapping[str, Any], *, first_stage: Path | None = None) -> None:
    """The note beside a run that was just written; nothing beside a pipe or a device."""
    from dear.train.checkpoints import versions

    if not run.is_file():
        return
    folder = Path(os.path.realpath(run.parent))
    # relative: a folder of runs may be moved
    first = None if first_stage is None else os.path.relpath(os.path.realpath(first_stage), folder)
    write_json(
        note_path(run),
        {
            "format": FORMAT,
            "sha256": _sha256(run),
            "first_stage": first,
            **values,
            "versions": versions(),
        },
    )


def read_origin(run: Path) -> Origin | None:
    """The note beside a run; None where there is none, or where it is about another content."""
    path = note_path(run)
    if not run.is_file() or not path.is_file():
        return None
    values = read_json(path)
    if values.get("format") != FORMAT or values.get("sha256") != _sha256(run):
        return None
    first = values.get("first_stage")
    return Origin(
        model=values.get("model"),
        first_stage=None if first is None else Path(os.path.normpath(run.resolve().parent / first)),
        top_k=values.get("top_k"),
        values=values,
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def gathered(collection: Collection, run: Run) -> list[Candidates]:
    """The run's queries and passages with their texts."""
    from dear.records import gather

    queries, corpus = collection.queries(), collection.corpus
    return [gather(ranking, queries, corpus) for ranking in run.values()]
