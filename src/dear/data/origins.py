"""The note beside a run: what was ranked, by which model, and what it took."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dear.artifacts import read_json, versions, write_json
from dear.digests import Inputs, file_digest, file_input
from dear.errors import DataError

FORMAT = "dear-run/1"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """What the note beside a run says.

    model: None for a first stage's own run.  first_stage: the run that was reranked.
    top_k: candidates of each query that were.
    inputs: what it was made from: texts, run (the first stage), model, contract, …; incomplete
        where an earlier version wrote the note.
    """

    model: str | None
    first_stage: Path | None
    top_k: int | None
    values: Mapping[str, Any]
    inputs: Inputs = field(default_factory=lambda: Inputs(complete=False))


def note_path(run: Path) -> Path:
    """RUN.json beside RUN."""
    return run.with_name(f"{run.name}.json")


def write_origin(
    run: Path,
    values: Mapping[str, Any],
    *,
    first_stage: Path | None = None,
    inputs: Inputs | None = None,
) -> None:
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
            "sha256": file_digest(run),
            "first_stage": first,
            **values,
            **({} if inputs is None else {"inputs": inputs.to_dict()}),
            "versions": versions(),
        },
    )


def read_origin(run: Path) -> Origin | None:
    """The note beside a run; None where there is none, or, with a warning, where it is about
    another content."""
    path = note_path(run)
    if not run.is_file() or not path.is_file():
        return None
    values = read_json(path)
    if values.get("format") != FORMAT:
        return None
    if values.get("sha256") != file_digest(run):
        logger.warning(
            "%s: another run than the one that %s is about, which is left out", run, path
        )
        return None
    first, model = values.get("first_stage"), values.get("model")
    if not isinstance(first, str | None) or not isinstance(model, str | None):
        raise DataError.at(path, None, "is no note of a run: 'first_stage' and 'model' are text")
    return Origin(
        model=model,
        first_stage=None if first is None else Path(os.path.normpath(run.resolve().parent / first)),
        top_k=values.get("top_k"),
        values=values,
        inputs=Inputs.from_dict(values.get("inputs")),
    )


def first_stage_of(
    run: Path, origin: Origin | None, own: Mapping[str, Path]
) -> tuple[Path | None, str | None]:
    """(what a run reranked, itself where it is a first stage's; what there is to say about it).

    origin: the note beside the run, which decides. A first stage that is neither below the run's
        folder nor beside one of the collection's runs is taken only where the note has its digest:
        a note from elsewhere may name any file, but not what is in it.
    own: the collection's runs of the split, which are first stages; without a note any other run
        reranked their bm25. None where nothing is known.
    """
    said = None
    if origin is not None:
        if origin.model is None:
            return run, None
        if origin.first_stage is not None:
            if origin.first_stage.is_file():
                now = Inputs({"run": file_input(origin.first_stage)}, complete=False)
                changed = origin.inputs.changes(now)
                folders = [run.parent, *(path.parent for path in own.values())]
                if not _is_in(origin.first_stage, folders) and (changed or changed.unverified):
                    said = (
                        f"{note_path(run)} names {origin.first_stage}, which is in another folder "
                        "and is not what it was made from; it is not read: --first-stage names it"
                    )
                    return own.get("bm25"), said
                if changed:
                    said = f"{origin.first_stage} has changed since {run} was made from it"
                return origin.first_stage, said
            said = f"{origin.first_stage}, which {run} was made from, is gone"
    elif run.resolve() in {path.resolve() for path in own.values()}:
        return run, None
    return own.get("bm25"), said


def _is_in(path: Path, folders: Iterable[Path]) -> bool:
    """Whether a file, and what it links to, is below one of these folders."""
    real = path.resolve()
    return any(real.is_relative_to(folder.resolve()) for folder in folders)
