"""Tevatron's training rows as a stream: a file, a folder of files, or a data set of the hub."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from dear.data.formats.lines import check_parquet, numbered_lines
from dear.data.formats.rows import JSON_LINES, Row, row_of
from dear.data.hub import hub_revision, hub_rows
from dear.digests import file_digests, lines_digest
from dear.errors import ConfigError, DataError, excerpt

PARQUET = ".parquet"
_KNOWN = (*JSON_LINES, *(f"{ending}.gz" for ending in JSON_LINES), PARQUET)
_HUB = re.compile(r"(hf:)?[\w.-]+/[\w.-]+(@[\w./-]+)?")
_ROWS_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class RowSource:
    """Rows that can be read again and again, a few of them in memory at a time.

    name: short, for ids and messages.  digest: over the content, or what names it for ever.
    """

    name: str
    digest: Callable[[], str]
    read: Callable[[], Iterator[Row]]


def open_rows(spec: str, split: str = "train") -> RowSource:
    """The rows that `spec` names.

    A .jsonl or .parquet file (.jsonl.gz as well); a folder of them, of which those that begin
    with the split's name count where there are such; `OWNER/NAME` of the hub, with `@REVISION`
    where it must not move, or `hf:FOLDER`. ConfigError: none of these. DataError: an empty folder;
    a hub that cannot be reached.
    """
    path = Path(spec).expanduser()
    if path.is_file():
        return _of_files(_stem(path), [path])
    if path.is_dir():
        return _of_files(path.resolve().name, row_files(path, split))
    if spec.startswith("hf:") or (_HUB.fullmatch(spec) and not spec.endswith(_KNOWN)):
        dataset = spec.removeprefix("hf:")
        name, _, wanted = dataset.partition("@")
        if Path(name).is_dir():
            found = _of_files(Path(name).resolve().name, row_files(Path(name), split))
            return RowSource(found.name, found.digest, lambda: hub_rows(name, split, None))
        revision = wanted or hub_revision(name)
        return RowSource(
            name.rpartition("/")[2],
            lambda: f"hf:{name}@{revision}/{split}",
            lambda: hub_rows(name, split, revision),
        )
    raise ConfigError(
        f"rows {spec!r}: no such file or folder, and no OWNER/NAME of a data set on the hub"
    )


def row_files(folder: Path, split: str) -> list[Path]:
    """The files of a folder that hold rows of this split, in the order of their names."""
    every = [p for p in sorted(folder.rglob("*")) if p.name.endswith(_KNOWN) and p.is_file()]
    every = [p for p in every if not any(n[0] == "." for n in p.relative_to(folder).parts)]
    if not every:
        raise DataError.at(folder, None, f"holds no rows: no file that ends in {', '.join(_KNOWN)}")
    return [p for p in every if p.name.startswith(split)] or every


def file_rows(path: Path) -> Iterator[Row]:
    """The rows of one file. DataError names the file, and the line or the row, of every fault."""
    if path.name.endswith(PARQUET):
        yield from _parquet_rows(path)
        return
    if not path.name.endswith(_KNOWN):
        raise DataError.at(path, None, f"holds no rows: its name ends in none of {_KNOWN}")
    for number, text in numbered_lines(path):
        yield row_of(text, str(path), number)


def _parquet_rows(path: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path, memory_map=False, pre_buffer=False) as file:
            check_parquet(path, file.metadata)
            for batch in file.iter_batches(_ROWS_AT_ONCE):
                for fields in batch.to_pylist():
                    number += 1
                    yield Row(fields, str(path), number)
    except (pa.ArrowException, OSError) as error:
        problem = f"the parquet file is damaged or cut short: {excerpt(str(error), 200)}"
        raise DataError.at(path, number + 1 if number else None, problem) from error


def _of_files(name: str, files: list[Path]) -> RowSource:
    def read() -> Iterator[Row]:
        for path in files:
            yield from file_rows(path)

    # contents in order: how the files are called changes no row
    return RowSource(name, lambda: lines_digest(file_digests(files)), read)


def _stem(path: Path) -> str:
    name = path.name
    for ending in sorted(_KNOWN, key=len, reverse=True):
        if name.endswith(ending):
            return name.removesuffix(ending) or name
    return name
