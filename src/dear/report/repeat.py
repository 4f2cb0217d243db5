"""What is needed to make a report again: which files, of which content, made by what."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dear.digests import file_digest
from dear.errors import DataError
from dear.evaluate.study import RunSource
from dear.report.parts import Report


@dataclass(frozen=True, kw_only=True, slots=True)
class _RunFile:
    """A run's file. sha256: of its bytes; empty where it is gone."""

    collection: str
    name: str
    path: str
    sha256: str
    made_by: str


def run_files(report: Report) -> Iterator[_RunFile]:
    """Those of every run that came from a file."""
    for part in report.parts:
        for entry in part.study.entries:
            source = entry.source
            if source.path is not None:
                yield _RunFile(
                    collection=part.study.collection,
                    name=entry.name,
                    path=_shown_path(source.path),
                    sha256=_sha256(source.path),
                    made_by=_made_by(source),
                )


def measured_with(report: Report) -> Iterator[str]:
    """A line for each collection: digests of its judgements and texts."""
    for part in report.parts:
        if part.inputs:
            digests = ", ".join(f"{kind} {digest}" for kind, digest in part.inputs.items())
            yield f"{part.study.collection}: {digests}"


def _shown_path(path: Path) -> str:
    """As given; an absolute one without the folders that are this machine's own."""
    return str(path) if not path.is_absolute() else str(Path("…", *path.parts[-2:]))


def _made_by(source: RunSource) -> str:
    """The model's name; of `biencoder:/some/place` the place is shortened like any other."""
    model = str((source.origin or {}).get("model") or "")
    kind, colon, place = model.partition(":")
    if colon and Path(place).is_absolute():
        return f"{kind}:{_shown_path(Path(place))}"
    return _shown_path(Path(model)) if Path(model).is_absolute() else model


def _sha256(path: Path) -> str:
    try:
        return file_digest(path)
    except DataError:
        return ""
