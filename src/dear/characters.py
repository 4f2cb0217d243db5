"""Characters that do harm where a text is shown, used as a name or brought to a normal form."""

from __future__ import annotations

import re
import unicodedata
from typing import Literal

import regex

_CONTROL = r"\x00-\x08\x0b-\x1f\x7f-\x9f"
# the end of a line to some programs; what makes letters stand in another order than they have
_LINES_AND_ORDER = "\u2028\u2029\u202a-\u202e\u2066-\u2069"
_HARMFUL = re.compile(f"[{_CONTROL}{_LINES_AND_ORDER}]")
_HARMFUL_IN_LINE = re.compile(f"[\t\n{_CONTROL}{_LINES_AND_ORDER}]")
_JSON_HARMFUL = re.compile(f"[\x7f-\x9f{_LINES_AND_ORDER}]")

HARMFUL_IN_ID = r"[\x00-\x1f\x7f-\x{9f}\x{2028}\x{2029}\x{202a}-\x{202e}\x{2066}-\x{2069}]"
"""What `harmful_in_id` finds, in the notation of RE2, by which Arrow searches columns."""

MOST_MARKS = 30
"""Combining marks in a row that `normal` keeps: the Stream-Safe Text Format of Unicode (UAX #15)
has as many, and no language needs more than a few."""
_MARKS = regex.compile(rf"(\p{{M}}{{{MOST_MARKS}}})\p{{M}}+")


def visible(text: str) -> str:
    r"""`text` for a terminal: control characters but for tab and line feed, separators of lines and
    what overrides the direction of writing are written out, an escape as `\x1b`."""
    return _HARMFUL.sub(_written_out, text)


def visible_line(text: str) -> str:
    r"""`visible`, and in one line: tabs and line feeds are written out as `\t` and `\n`."""
    return _HARMFUL_IN_LINE.sub(_written_out, text)


def visible_json(text: str) -> str:
    """JSON text that says the same, without characters that `visible` would write out."""
    return _JSON_HARMFUL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _written_out(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")


def harmful_in_id(identifier: str) -> str | None:
    """The first character of `identifier` that no id may hold, None where there is none: those
    that `visible_line` writes out."""
    if identifier.isprintable():  # most are, and this takes no time
        return None
    found = _HARMFUL_IN_LINE.search(identifier)
    return None if found is None else found[0]


def from_file_name(name: str) -> str:
    """A file's name, or a text with one in it, as text that can be written, whatever the locale:
    UTF-8 where its bytes are, and U+FFFD for those that are not."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def percent_encoded(name: str) -> str:
    """A file's name as an id: white space, what no id may hold and bytes that are no UTF-8 as %20
    and so on."""
    # what an ASCII locale could not read of a name may be UTF-8 all the same
    named = name.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
    return _NO_ID.sub(_percent, named)


_NO_ID = re.compile(rf"[\s{_CONTROL}{_LINES_AND_ORDER}\ud800-\udfff]")


def _percent(found: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in found[0].encode("utf-8", "surrogateescape"))


def normal(form: Literal["NFC", "NFD", "NFKC", "NFKD"], text: str) -> str:
    """unicodedata.normalize in linear time: of more than MOST_MARKS combining marks in a row the
    rest is dropped, because a longer row is sorted in quadratic time."""
    return unicodedata.normalize(form, text if text.isascii() else _MARKS.sub(r"\1", text))
