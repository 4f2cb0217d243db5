"""Text as people have it: a line each, tables with tabs, a folder of documents."""

from __future__ import annotations

import codecs
import contextlib
import csv
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from dear.artifacts import NOT_UTF8, NotUtf8, broken, read_text, read_whole
from dear.characters import from_file_name, percent_encoded
from dear.data.formats.beir import passage_of
from dear.data.formats.lines import (
    Source,
    check_id,
    is_header,
    numbered_lines,
    once,
    source_name,
    write_lines,
)
from dear.data.formats.markup import html_text, markdown_text
from dear.data.formats.rows import JSON_LINES, Row, row_of
from dear.errors import DataError, excerpt
from dear.notices import warn
from dear.records import Passage, Query

_OBJECT = re.compile(r'\s*\{\s*"')
_HEADING = re.compile(r"#{1,6}\s+")
_TITLE_CHARS = 120


def read_passages(path_or_stream: Source) -> list[Passage]:
    """A passage a line, as text or as JSON `{"text", "title", "_id"}`, or a JSON array of texts or
    such objects; `-` is standard input.

    JSON when the name ends in .jsonl, the first line begins with `{"`, or the whole is one array;
    then all of it must be. Keys as `iter_corpus` understands them. Ids default to the line number,
    or the place in the array, from 1; blank lines are skipped and counted. DataError: as
    `numbered_lines` and `iter_corpus`.
    """
    name, seen, passages = source_name(path_or_stream), set[str](), []
    lines = list(numbered_lines(path_or_stream))
    as_json = name.removesuffix(".gz").endswith(JSON_LINES) or bool(_OBJECT.match(lines[0][1]))
    array = None if as_json else _array(name, [line for _, line in lines])
    for number, value in enumerate(array, 1) if array is not None else lines:
        if array is not None:
            passage = _item(name, number, value)
        elif as_json:
            passage = passage_of(row_of(value, name, number), default_id=str(number))
        else:
            passage = Passage(id=str(number), text=value.strip())
        once(seen, passage.id, name, number, "passage id")
        passages.append(passage)
    return passages


def _array(name: str, lines: list[str]) -> list[Any] | None:
    """The JSON array that a whole file holds; None where it holds something else."""
    if not lines[0].lstrip().startswith("["):
        return None
    try:
        found = json.loads("\n".join(lines))
    except (ValueError, RecursionError) as error:
        if name.removesuffix(".gz").endswith(".json"):
            raise DataError.at(name, None, f"broken JSON: {broken(error)}") from error
        return None  # a text may begin with a bracket, too
    if not found:
        raise DataError.at(name, None, "is an empty list")
    return list(found)


def _item(name: str, place: int, value: object) -> Passage:
    if isinstance(value, str):
        value = {"text": value}
    if not isinstance(value, dict):
        problem = f"item {place} of the array is neither a text nor an object"
        raise DataError.at(name, None, problem)
    return passage_of(Row(value, name, place), default_id=str(place))


def read_queries_tsv(path: Source) -> dict[str, Query]:
    """`id<TAB>text` lines, header or not → query id → query."""
    queries: dict[str, Query] = {}
    for number, cells in _table(path, (2,)):
        once_in(queries, cells[0], path, number, "query id")
        if not cells[1].strip():
            raise DataError.at(source_name(path), number, f"query {cells[0]!r} has no text")
        queries[cells[0]] = Query(id=cells[0], text=cells[1])
    return queries


def read_corpus_tsv(path: Source) -> dict[str, Passage]:
    """`id<TAB>text` or `id<TAB>title<TAB>text` lines, header or not → passage id → passage."""
    corpus: dict[str, Passage] = {}
    for number, cells in _table(path, (2, 3)):
        once_in(corpus, cells[0], path, number, "passage id")
        title = cells[1] if len(cells) == 3 else ""
        corpus[cells[0]] = Passage(id=cells[0], title=title, text=cells[-1])
    return corpus


def read_documents(path: Source) -> dict[str, str]:
    """`passage-id<TAB>document-id` lines → passage id → document id."""
    found: dict[str, str] = {}
    for number, (passage_id, document_id) in _table(path, (2,)):
        for identifier, what in ((passage_id, "passage id"), (document_id, "document id")):
            check_id(identifier, path, number, what)
        if passage_id in found:
            raise DataError.at(source_name(path), number, f"passage {passage_id!r} appears twice")
        found[passage_id] = document_id
    return found


def write_documents(path: Path | str, documents: Mapping[str, str]) -> None:
    """What `read_documents` reads, atomically."""
    write_lines(path, (f"{passage}\t{document}" for passage, document in documents.items()))


def _table(path: Source, columns: tuple[int, ...]) -> Iterator[tuple[int, list[str]]]:
    """(line number, cells) of a table with tabs; quoted as csv writers do it, or not."""
    name, rows = source_name(path), 0
    for place, (number, cells) in enumerate(_cells(path)):
        if place == 0 and is_header(cells):
            continue
        if len(cells) not in columns:
            wanted = " or ".join(map(str, columns))
            shown = excerpt("\t".join(cells))
            problem = f"expected {wanted} fields between tabs, got {len(cells)}: {shown}"
            raise DataError.at(name, number, problem)
        if not cells[0].strip():
            raise DataError.at(name, number, f"an empty id: {excerpt(' '.join(cells))}")
        rows += 1
        yield number, cells
    if not rows:
        raise DataError.at(name, None, "holds a header and nothing else")


def _cells(path: Source) -> Iterator[tuple[int, list[str]]]:
    lines = numbered_lines(path)
    number, first = next(lines)
    if not _QUOTED_FIRST.match(first):
        for at, line in chain([(number, first)], lines):
            yield at, [_unquoted(cell) for cell in line.split("\t")]
        return
    # every cell is quoted, so that a cell may hold tabs and line ends

    def text() -> Iterator[str]:
        nonlocal number
        yield first + "\n"
        for at, line in lines:
            number = at
            yield line + "\n"

    try:
        for cells in csv.reader(text(), delimiter="\t", strict=True):
            yield number, cells
    except csv.Error as error:
        raise DataError.at(source_name(path), number, f"broken quotes: {error}") from error


_QUOTED_FIRST = re.compile(r'"(?:[^"]|"")*"(?:\t|$)')


def _unquoted(cell: str) -> str:
    """A cell that was quoted because it holds quotes, which are doubled then; others as they are:
    a text may stand in quotes."""
    inside = cell[1:-1]
    quoted = len(cell) > 3 and cell[0] == cell[-1] == '"' and '""' in inside
    return inside.replace('""', '"') if quoted and '"' not in inside.replace('""', "") else cell


def once_in(
    known: dict[str, Query] | dict[str, Passage],
    identifier: str,
    path: Source,
    number: int,
    what: str,
) -> None:
    """DataError when `identifier` is there already, or is no id."""
    check_id(identifier, path, number, what)
    if identifier in known:
        raise DataError.at(source_name(path), number, f"{what} {identifier!r} appears twice")


def read_queries_txt(path: Source) -> dict[str, Query]:
    """A query a line → line number, from 1 → query; blank lines are skipped and counted."""
    return {
        str(number): Query(id=str(number), text=line.strip())
        for number, line in numbered_lines(path)
    }


def read_corpus_txt(path: Source) -> dict[str, Passage]:
    """A passage a line → line number, from 1 → passage; blank lines are skipped and counted."""
    return {
        str(number): Passage(id=str(number), text=line.strip())
        for number, line in numbered_lines(path)
    }


_PAGES = (".html", ".htm")
_ENDINGS = (".txt", ".md", ".markdown", *_PAGES)


def read_document_folder(folder: Path | str) -> dict[str, Passage]:
    """Every text, Markdown and HTML file below `folder`, one passage each, by name → passage id →
    passage.

    The id is the path inside the folder, white space in it as %20 and so on, because a TREC run
    cannot hold it. Markup is left out. The title is a page's own; else the first line when that is
    a Markdown heading, or short and followed by a blank line; else the file's name. Hidden files
    and folders are left out, other files are counted in a notice, empty files are passages without
    text.
    A file that is not UTF-8 is read where a byte order mark, a page's charset or its first two
    lines (`coding: latin-1`) say what it is; with DEAR_SKIP_UNDECODABLE others are left out, and
    counted in a notice.
    DataError: no such file at all, or not UTF-8 (all such files, with their lines).
    """
    root = Path(folder)
    files = document_files(root)
    if not files:
        raise DataError.at(root, None, f"holds no file of {', '.join(_ENDINGS)}")
    _tell_of_others(root)
    passages: dict[str, Passage] = {}
    seen: set[str] = set()
    lost: list[NotUtf8] = []
    for path in files:
        try:
            passage = _document(path, root)
        except NotUtf8 as error:
            lost.append(error)
            continue
        once(seen, passage.id, str(path), None, "passage id")
        passages[passage.id] = passage
    if lost:
        _tell_of_undecodable(root, lost, left=len(passages))
    return passages


def _tell_of_undecodable(root: Path, lost: Sequence[NotUtf8], *, left: int) -> None:
    """A notice where they are to be left out. DataError otherwise, or where nothing is left."""
    places = ", ".join(error.place for error in lost[:_LOST_SHOWN])
    more = f" and {len(lost) - _LOST_SHOWN:,} more" if len(lost) > _LOST_SHOWN else ""
    if left and os.environ.get(SKIP_UNDECODABLE):
        number = "one file is" if len(lost) == 1 else f"{len(lost):,} files are"
        warn(f"{root}: {number} left out, not in UTF-8: {places}{more}")
        return
    skip = "; to leave out such files: dear --skip-undecodable COMMAND" if left else ""
    if len(lost) == 1:
        raise NotUtf8(f"{lost[0]}{skip}") from lost[0]
    raise DataError.at(root, None, f"{len(lost):,} files are {NOT_UTF8}{skip}: {places}{more}")


SKIP_UNDECODABLE = "DEAR_SKIP_UNDECODABLE"
"""The variable that leaves out files of a folder in an unknown encoding."""
_LOST_SHOWN = 20


def document_files(root: Path) -> list[Path]:
    """Every file of _ENDINGS below a folder, by name, but for hidden ones. DataError: a
    link that leads out of the folder, so that a folder from elsewhere shows nobody's other
    files."""
    found = [path for path in _visible_files(root) if path.suffix.lower() in _ENDINGS]
    for path in found:
        if path.is_symlink() and not path.resolve().is_relative_to(root.resolve()):
            raise DataError.at(path, None, "is a link out of the folder; put the file itself here")
    return found


def _visible_files(root: Path) -> list[Path]:
    return sorted(
        path
        for path in root.rglob("*")
        if path.is_file() and not any(p.startswith(".") for p in path.relative_to(root).parts)
    )


def _tell_of_others(root: Path) -> None:
    """A notice of the files that are not read, by their endings."""
    others = [p for p in _visible_files(root) if p.suffix.lower() not in _ENDINGS]
    if not others:
        return
    kinds = Counter(path.suffix.lower() or "no ending" for path in others).most_common()
    shown = ", ".join(f"{kind} {number:,}" for kind, number in kinds[:_KINDS_SHOWN])
    more = f" and {len(kinds) - _KINDS_SHOWN} other kinds" if len(kinds) > _KINDS_SHOWN else ""
    number = "one file is" if len(others) == 1 else f"{len(others):,} files are"
    example = from_file_name(others[0].relative_to(root).as_posix())
    warn(
        f"{root}: {number} not read, such as {example} ({shown}{more}); what is read: "
        f"{', '.join(_ENDINGS)}"
    )


_KINDS_SHOWN = 5


def _document(path: Path, root: Path) -> Passage:
    relative = path.relative_to(root).as_posix()
    ending = path.suffix.lower()
    if ending in _PAGES:
        title, text = html_text(_text_of(path))
    else:
        title, text = "", _text_of(path).strip().replace("\r\n", "\n")
        if ending in (".md", ".markdown"):
            title, text = markdown_text(text)
        if not title:
            title, text = _title(text)
    return Passage(id=percent_encoded(relative), title=title or path.stem, text=text)


_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""Byte order marks, the longer ones first, since one begins as another does."""
_CHARSET = re.compile(rb"<meta[^>]{1,200}charset=[\"']?([\w-]{1,40})", re.IGNORECASE)
_CODING = re.compile(rb"\A(?:[^\n]*\n)?[^\n]*?coding[:=] ?[\"']?([\w.-]{1,40})")
"""In the first two lines, as editors and XML have it."""
_HEAD_BYTES = 4096


def _text_of(path: Path) -> str:
    """A document's text. NotUtf8: not that, and neither a mark nor words in it name another
    encoding that it is in."""
    data = read_whole(path)
    for encoding in _encodings(data, is_page=path.suffix.lower() in _PAGES):
        with contextlib.suppress(LookupError, UnicodeError, ValueError):
            return data.decode(encoding)
    return read_text(path)  # whose error names the line


def _encodings(data: bytes, *, is_page: bool) -> Iterator[str]:
    """What a file may be in, as it says itself, the likeliest first."""
    head = data[:_HEAD_BYTES]
    yield from [encoding for mark, encoding in _MARKS if data.startswith(mark)][:1]
    if is_page and (charset := _CHARSET.search(head)):
        yield charset[1].decode("ascii")
    yield "utf-8-sig"
    if coding := _CODING.search(head):
        yield coding[1].decode("ascii")


def _title(text: str) -> tuple[str, str]:
    first, _, rest = text.partition("\n")
    if heading := _HEADING.match(first):
        return first[heading.end() :].rstrip().rstrip("#").rstrip(), rest.strip()
    short = 0 < len(first) <= _TITLE_CHARS
    if short and rest and not rest.partition("\n")[0].strip():
        return first.strip(), rest.strip()
    return "", text
