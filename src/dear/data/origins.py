"""The note beside a run: what was ranked, by which model, and what it took."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dear.artifacts import read_json, versions, write_json

FORMAT = "dear-run/1"


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
    if not run.is_file():
        return
    folder = Path(os.path.realpath(run.parent))
    # relative: a folder of runs may be moved
    first = None if first_stage is None else os.path.relpath(os.path.realpath(first_stage), folder)
    write_json(
        note_path(run),
        {
            "format": FORMAT,
            "sha256": sha256(run),
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
    if values.get("format") != FORMAT or values.get("sha256") != sha256(run):
        return None
    first = values.get("first_stage")
    return Origin(
        model=values.get("model"),
        first_stage=None if first is None else Path(os.path.normpath(run.resolve().parent / first)),
        top_k=values.get("top_k"),
        values=values,
    )


def sha256(path: Path) -> str:
    """64 hexadecimal digits over a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def first_stage_of(
    run: Path, origin: Origin | None, own: Mapping[str, Path]
) -> tuple[Path | None, str | None]:
    """(what a run reranked, itself where it is a first stage's; what there is to say about it).

    origin: the note beside the run, which decides.
    own: the collection's runs of the split, which are first stages; without a note any other run
        reranked their bm25. None where nothing is known.
    """
    said = None
    if origin is not None:
        if origin.model is None:
            return run, None
        if origin.first_stage is not None:
            if origin.first_stage.is_file():
                return origin.first_stage, None
            said = f"{origin.first_stage}, which {run} was made from, is gone"
    elif run.resolve() in {path.resolve() for path in own.values()}:
        return run, None
    return own.get("bm25"), said
