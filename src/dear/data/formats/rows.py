"""Files ↔ JSON rows that know where they stand."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dear.artifacts import broken
from dear.data.formats.lines import Source, check_id, numbered_lines, source_name
from dear.errors import DataError, excerpt

JSON_LINES = (".jsonl", ".ndjson")


@dataclass(frozen=True, slots=True)
class Row:
    """A JSON object and where it stands; its methods name the place when a field is wrong."""

    fields: Mapping[str, Any]
    source: str
    line: int | None
    inside: str = ""

    def error(self, problem: str) -> DataError:
        """`file:line: inside: problem`."""
        return DataError.at(self.source, self.line, self.inside + problem)

    def find(self, *names: str) -> tuple[str, Any] | None:
        """The first of `names` that is there and not null, with its value."""
        for name in names:
            if (value := self.fields.get(name)) is not None:
                return name, value
        return None

    def need(self, *names: str) -> tuple[str, Any]:
        """Like `find`; DataError when none is there, naming the key that looks most like it."""
        found = self.find(*names)
        if found is None:
            raise self.error(f"no {names[0]!r}{_present(names, self.fields)}")
        return found

    def text(self, *names: str, default: str | None = None) -> str:
        """A string, as it is."""
        found = self.find(*names)
        if found is None:
            if default is not None:
                return default
            found = self.need(*names)
        name, value = found
        if not isinstance(value, str):
            raise self.error(f"{name!r} must be text, got {_kind(value)}")
        return value

    def filled(self, *names: str) -> str:
        """A string that is not blank."""
        text = self.text(*names)
        if not text.strip():
            raise self.error(f"{self.need(*names)[0]!r} is empty")
        return text

    def id(self, *names: str, default: str | None = None) -> str:
        """A string or a whole number, as a string that is not blank."""
        found = self.find(*names)
        if found is None:
            if default is not None:
                return default
            found = self.need(*names)
        name, value = found
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise self.error(f"{name!r} must be text or a whole number, got {_kind(value)}")
        identifier = str(value)
        if not identifier.strip():
            raise self.error(f"{name!r} is empty")
        check_id(identifier, self.source, self.line, f"{self.inside}{name!r}")
        return identifier

    def number(self, name: str) -> float | None:
        """A finite number; None where it is missing."""
        found = self.find(name)
        return None if found is None else self.finite(found[1], name)

    def finite(self, value: object, name: str) -> float:
        """`value` as a float; DataError for text, NaN and infinities."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.error(f"{name!r} must be a number, got {_kind(value)}")
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise self.error(f"{name!r} is {number}, a finite number is needed")
        return number

    def items(self, name: str, *, default: tuple[object, ...] | None = None) -> list[Any]:
        """A list, any content."""
        if default is not None and self.find(name) is None:
            return list(default)
        value = self.need(name)[1]
        if not isinstance(value, list):
            raise self.error(f"{name!r} must be a list, got {_kind(value)}")
        return value

    def numbers(self, name: str, length: int) -> tuple[float, ...] | None:
        """`length` finite numbers; None where the list is missing."""
        if self.find(name) is None:
            return None
        values = self.items(name)
        if len(values) != length:
            raise self.error(f"{name!r} has {len(values)} numbers for {length} passages")
        return tuple(self.finite(v, f"{name}[{i}]") for i, v in enumerate(values))

    def child(self, value: object, inside: str) -> Row:
        """The object `value` inside this one."""
        if not isinstance(value, dict):
            raise self.error(f"{inside} must be an object, got {_kind(value)}")
        return Row(value, self.source, self.line, f"{self.inside}{inside}: ")

    def children(self, name: str, *, default: tuple[object, ...] | None = None) -> list[Row]:
        """A list of objects."""
        values = self.items(name, default=default)
        return [self.child(v, f"{name}[{i}]") for i, v in enumerate(values)]


def json_rows(source: Source) -> Iterator[Row]:
    """The objects of a JSON Lines file, of a JSON array, or the one object of a file.

    JSON Lines are read line by line; a `.jsonl` is never taken for anything else. The other two
    are held in memory. Each row knows the line on which it starts.
    """
    name = source_name(source)
    lines = numbered_lines(source)
    number, text = next(lines)
    if name.removesuffix(".gz").endswith(JSON_LINES) or _is_object(text):
        yield row_of(text, name, number)
        for number, text in lines:
            yield row_of(text, name, number)
    else:
        yield from _document_rows(name, [(number, text), *lines])


def row_of(text: str, name: str, number: int) -> Row:
    """One line of JSON Lines. DataError: broken JSON, no object, a lone surrogate."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        problem = f"broken JSON: {error.msg} (column {error.colno}): {excerpt(text)}"
        raise DataError.at(name, number, problem) from error
    except (ValueError, RecursionError) as error:
        raise DataError.at(name, number, f"broken JSON: {broken(error)}") from error
    return _checked(value, text, name, number)


def _checked(value: object, text: str, name: str, number: int) -> Row:
    if not isinstance(value, dict):
        problem = f"expected a JSON object, got {_kind(value)}: {excerpt(text)}"
        raise DataError.at(name, number, problem)
    if "\\ud" in text or "\\uD" in text:
        # half of a surrogate pair: no tokenizer and no file can hold it
        try:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError as error:
            raise DataError.at(name, number, "half a character (lone surrogate \\ud…)") from error
        except RecursionError as error:
            raise DataError.at(name, number, f"broken JSON: {broken(error)}") from error
    return Row(value, name, number)


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _document_rows(name: str, lines: list[tuple[int, str]]) -> Iterator[Row]:
    """The items of the one array, or the one object, that a whole file holds."""
    padded = [""] * lines[-1][0]
    for number, text in lines:
        padded[number - 1] = text
    document = "\n".join(padded)
    start = _skip(document, 0)
    if document[start] != "[":
        value, end, line = _decoded(document, start, name, 1)
        yield _checked(value, document[start:end], name, line)
        _expect_end(name, document, end)
        return
    line, at = 1, _skip(document, start + 1)
    if document[at : at + 1] == "]":
        raise DataError.at(name, None, "is an empty list")
    counted = 0
    while True:
        line += document.count("\n", counted, at)
        counted = at
        value, end, line = _decoded(document, at, name, line)
        yield _checked(value, document[at:end], name, line)
        at = _skip(document, end)
        if document[at : at + 1] == "]":
            return _expect_end(name, document, at + 1)
        if document[at : at + 1] != ",":
            line = document.count("\n", 0, at) + 1
            raise DataError.at(name, line, "broken JSON: expected ',' or ']' after an item")
        at = _skip(document, at + 1)


def _decoded(document: str, at: int, name: str, line: int) -> tuple[object, int, int]:
    try:
        value, end = json.JSONDecoder().raw_decode(document, at)
    except json.JSONDecodeError as error:
        problem = f"broken JSON: {error.msg} (column {error.colno})"
        raise DataError.at(name, error.lineno, problem) from error
    except (ValueError, RecursionError) as error:
        raise DataError.at(name, line, f"broken JSON: {broken(error)}") from error
    return value, end, line


def _expect_end(name: str, document: str, at: int) -> None:
    at = _skip(document, at)
    if at < len(document):
        problem = f"broken JSON: more text after the end: {excerpt(document[at:])}"
        raise DataError.at(name, document.count("\n", 0, at) + 1, problem)


def _skip(document: str, at: int) -> int:
    while at < len(document) and document[at] in " \t\r\n":
        at += 1
    return at


def json_line(fields: Mapping[str, Any]) -> str:
    """One row of JSON Lines. DataError: a number that is not finite."""
    try:
        return json.dumps(fields, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        row = excerpt(json.dumps(fields, ensure_ascii=False))
        raise DataError(f"a number that is not finite cannot be written: {row}") from error


def _present(names: tuple[str, ...], fields: Mapping[str, Any]) -> str:
    keys = [str(key) for key in fields]
    for name in names:
        if name in fields:
            return " (it is null)"
    for name in names:
        if close := difflib.get_close_matches(name, keys, n=1, cutoff=0.6):
            return f"; is {close[0]!r} meant to be it?"
    return f"; the row has: {', '.join(keys[:20]) or 'nothing'}"


def _kind(value: object) -> str:
    kinds = {dict: "an object", list: "a list", str: "text", bool: "true or false"}
    if value is None:
        return "null"
    return kinds.get(type(value), f"the number {str(value)[:20]}")
