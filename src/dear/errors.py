"""Everything that DeAR raises on purpose.

DearError
├── ConfigError         a recipe, an option or an argument is wrong
├── DataError           a file or a record is wrong; says file and line where it can
├── ContractMismatch    scores or weights made under another scoring contract
├── MissingExtra        an optional dependency is not installed
├── BackendError        a model or a server did not answer as it must
├── Cancelled           the caller has gone away
└── ParseError          a model's answer is no permutation

The command line prints one of these as one line and exits with 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


class DearError(Exception):
    """The root: catch this to catch everything that DeAR raises on purpose."""


class ConfigError(DearError):
    """A recipe, an option or an argument is wrong."""


class DataError(DearError):
    """A file or a record is wrong."""

    @classmethod
    def at(cls, path: Path | str, line: int | None, problem: str) -> DataError:
        """`path:line: problem`, the form that editors turn into a link."""
        where = f"{path}:{line}" if line is not None else str(path)
        return cls(f"{where}: {problem}")


class ContractMismatch(DearError):
    """Scores or weights were made under another scoring contract."""


class MissingExtra(DearError):
    """An optional dependency is not installed."""

    @classmethod
    def of(cls, package: str, extra: str) -> MissingExtra:
        return cls(f"{package} is not installed: pip install 'dear-rerank[{extra}]'")


class BackendError(DearError):
    """A model or a server did not answer as it must."""


class NotFinite(BackendError):
    """A model gives a pair no finite score."""


class Cancelled(DearError):
    """The caller has gone away: nothing more is computed for it."""


class ParseError(DearError):
    """A model's answer is no permutation of the candidates."""


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the known word nearest to `word`, else the list of known words."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(names)}" if names else ""


def shortened(text: str, limit: int = 300) -> str:
    """`text` without its middle, short enough for an error line that quotes what a file holds."""
    half = limit // 2
    return text if len(text) <= limit else f"{text[:half]} … {text[-half:]}"


def excerpt(text: str, limit: int = 60) -> str:
    """`text` in quotes, short enough for an error line."""
    return repr(text if len(text) <= limit else text[: limit - 1] + "…")
