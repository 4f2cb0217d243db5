"""Numbered lines of text files, and the header lines of tables."""

from __future__ import annotations

import contextlib
import gzip
import io
import re
import sys
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, TypeAlias

from dear.artifacts import atomic_path, limit_of
from dear.characters import harmful_in_id
from dear.errors import DataError, excerpt

_IDS = frozenset(
    {
        *("id", "queryid", "qid", "corpusid", "docid", "documentid", "docno", "did", "pid"),
        *("passageid", "topic", "topicid", "questionid", "number", "qno", "query"),
    }
)
_TEXTS = frozenset(
    {
        *("text", "contents", "content", "segment", "passage", "body", "documenttext", "query"),
        *("querytext", "question", "title", "description", "passagetext", "doctext", "document"),
    }
)
# of judgements, and what ends a line of a run
_GRADES = frozenset(
    {
        *("score", "rel", "relevance", "grade", "label", "judgement", "judgment"),
        *("qrel", "tag", "run", "runid", "runname"),
    }
)


def is_header(cells: Sequence[str]) -> bool:
    """Whether these are names of columns: an id first, a text, grade or tag last."""
    names = [re.sub(r"[\W_]+", "", cell.lower()) for cell in (cells[0], cells[-1])]
    return len(cells) > 1 and names[0] in _IDS and names[1] in _TEXTS | _GRADES


Source: TypeAlias = Path | str | IO[str] | IO[bytes]
"""A path, `-` for standard input, or an open stream."""


def numbered_lines(source: Source) -> Iterator[tuple[int, str]]:
    """(line number from 1, text without line ending) for each line that is not blank.

    Plain or gzip, known by its first bytes or by `.gz`; LF, CRLF or, in the whole file, CR; a byte
    order mark is dropped.
    DataError: no such file, not UTF-8, a gzip stream cut short, nothing but blank lines; a line of
    more than LINE_MIB, a file that unpacks to more than EXPANSION times its size.
    """
    name, number, empty = source_name(source), 0, True
    try:
        with _byte_stream(source) as stream:
            for number, raw in enumerate(_lines(stream, name), 1):
                try:
                    text = raw.decode("utf-8")
                except UnicodeDecodeError as error:
                    problem = f"not UTF-8 (byte {error.start + 1} of the line)"
                    raise DataError.at(name, number, problem) from error
                text = text.rstrip("\r\n")
                if number == 1:
                    text = text.removeprefix("\ufeff")
                if text and not text.isspace():
                    empty = False
                    yield number, text
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        problem = f"the gzip stream is damaged or cut short: {error}"
        raise DataError.at(name, number + 1, problem) from error
    except OSError as error:
        raise DataError.at(name, None, f"cannot be read: {error.strerror or error}") from error
    if empty:
        raise DataError.at(name, None, "is empty")


def _lines(stream: Any, name: str) -> Iterator[bytes]:
    """The stream's lines; where the first one holds CR and no LF, the file has no other ends."""
    lines = _bounded_lines(stream, name)
    first = next(lines, b"")
    if b"\r" in first and not first.endswith(b"\n"):
        yield from first.split(b"\r")
    elif first:
        yield first
    yield from lines


def _bounded_lines(stream: Any, name: str) -> Iterator[bytes]:
    """The lines of a binary stream, none longer than LINE_MIB. DataError: one that is; see
    `check_expansion`."""
    most = limit_of("line")
    packed: _Packed | None = getattr(stream, "packed", None)
    unpacked = 0
    number = 0
    while line := stream.readline(most + 1):
        number += 1
        if len(line) > most:
            mib = most >> 20
            problem = f"a line of more than {mib} MiB; if it is meant to be: --line-mib {2 * mib}"
            raise DataError.at(name, number, problem)
        if packed is not None:
            unpacked += len(line)
            if unpacked > _SMALL_BYTES:
                check_expansion(name, packed.taken, unpacked)
        yield line


def check_expansion(name: Path | str, packed: int, unpacked: int) -> None:
    """DataError where `unpacked` bytes are more than `limit_of("expansion")` times `packed`; small
    files may be."""
    most = limit_of("expansion")
    if unpacked > max(_SMALL_BYTES, most * packed):
        problem = f"unpacks to more than {most} times its size"
        raise DataError.at(name, None, f"{problem}; if it is meant to: --expansion {10 * most}")


def check_parquet(path: Path, about: Any) -> None:
    """DataError where a parquet file's metadata claims more than its size can hold: as
    `check_expansion`, and many rows of less than a byte each."""
    size = path.stat().st_size
    groups = (about.row_group(i).total_byte_size for i in range(about.num_row_groups))
    check_expansion(path, size, sum(groups))
    if about.num_rows > max(_FEW_ROWS, size):
        raise DataError.at(path, None, f"claims {about.num_rows:,} rows in {size:,} bytes")


_FEW_ROWS, _SMALL_BYTES = 1 << 16, 4 << 20


class _Packed:
    """A file that is unpacked; `taken` bytes of it have been read."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.taken = file, 0

    def read(self, size: int = -1) -> bytes:
        data = self.file.read(size)
        self.taken += len(data)
        return data

    def seek(self, offset: int) -> None:
        """What is read once is not gone back to."""
        raise OSError(f"cannot go back to {offset}")


def source_name(source: Source) -> str:
    """What an error line calls it."""
    if isinstance(source, Path | str):
        return "<stdin>" if source == "-" else str(source)
    return str(getattr(source, "name", "<stream>"))


def _byte_stream(source: Source) -> contextlib.AbstractContextManager[Iterable[bytes]]:
    if isinstance(source, io.StringIO):
        return contextlib.nullcontext(io.BytesIO(source.getvalue()[source.tell() :].encode()))
    if not isinstance(source, Path | str):
        # the bytes below a text stream: its own decoder may be lenient or not UTF-8
        return contextlib.nullcontext(_bytes_below(source))
    if source == "-":
        return contextlib.nullcontext(sys.stdin.buffer)
    return _open_bytes(Path(source))


def _bytes_below(stream: Any) -> Iterable[bytes]:
    below: Iterable[bytes] = getattr(stream, "buffer", stream)
    return below


class _Unpacked(io.BufferedReader):
    """What a gzip stream holds, and how much of the file it came from."""

    def __init__(self, unpacked: gzip.GzipFile, packed: _Packed) -> None:
        super().__init__(unpacked, 1 << 16)
        self.packed = packed


@contextlib.contextmanager
def _open_bytes(path: Path) -> Iterator[Iterable[bytes]]:
    with path.open("rb") as plain:
        if path.suffix == ".gz" or plain.peek(2)[:2] == b"\x1f\x8b":
            packed = _Packed(plain)
            with gzip.GzipFile(mode="rb", fileobj=packed) as unpacked:
                yield _Unpacked(unpacked, packed)
        else:
            yield plain


def write_lines(path: Path | str, lines: Iterable[str]) -> None:
    """One line each, UTF-8, atomically; packed when the name ends in .gz, same bytes every time.

    DataError: nothing to write, a lone surrogate, or what `atomic_path` names.
    """
    count = 0
    with atomic_path(path) as temporary, temporary.open("wb") as plain:
        with _packer(path, plain) as stream:
            for count, line in enumerate(lines, 1):
                try:
                    stream.write(line.encode("utf-8") + b"\n")
                except UnicodeEncodeError as error:
                    raise DataError.at(path, count, f"cannot be UTF-8: {error.reason}") from error
        if not count:
            raise DataError.at(path, None, "nothing to write: an empty file could not be read")


@contextlib.contextmanager
def _packer(path: Path | str, plain: IO[bytes]) -> Iterator[IO[bytes]]:
    if str(path).endswith(".gz"):
        # no time and no name in the header: equal content gives equal files
        with (
            gzip.GzipFile("", "wb", compresslevel=6, fileobj=plain, mtime=0) as packed,
            io.BufferedWriter(packed, 1 << 16) as buffered,
        ):
            yield buffered
    else:
        yield plain


def check_id(identifier: str, source: Source, line: int | None, what: str) -> None:
    """DataError for an id that is empty or holds a control character: it would break tables and
    runs, and give orders to a terminal."""
    if not identifier.strip():
        raise DataError.at(source_name(source), line, f"{what} {identifier!r} is empty")
    if (harmful := harmful_in_id(identifier)) is not None:
        problem = f"{what} {excerpt(identifier)} holds the control character {harmful!r}"
        raise DataError.at(source_name(source), line, problem)


def once(seen: set[str], identifier: str, source: Source, line: int | None, what: str) -> None:
    """Notes `identifier`; DataError when it was there before."""
    if identifier in seen:
        raise DataError.at(source_name(source), line, f"{what} {identifier!r} appears twice")
    seen.add(identifier)
