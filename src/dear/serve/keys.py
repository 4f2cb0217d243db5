"""API keys: hashed on disk and in memory, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable
from pathlib import Path

from dear.errors import ConfigError, DataError

_HASH = re.compile(r"[0-9a-f]{64}")


def hashed(key: str) -> str:
    """SHA-256 in hexadecimal digits; keys are long and random: a slow hash would add nothing."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


class Keys:
    """Who may ask. keys: as typed.  file: a hash in each line, and behind it what one likes.

    ConfigError: a key that is empty. DataError: a line that begins with no hash.
    """

    def __init__(self, keys: Iterable[str] = (), file: Path | None = None) -> None:
        keys = list(keys)
        if any(not key.strip() for key in keys):
            raise ConfigError("an API key is empty")
        self._hashes = [hashed(key) for key in keys]
        if file is not None:
            self._hashes += _read(file)

    def __bool__(self) -> bool:
        return bool(self._hashes)

    def knows(self, key: str | None) -> bool:
        if key is None:
            return False
        given = hashed(key)
        # every hash is looked at, whichever it is
        return sum(hmac.compare_digest(given, one) for one in self._hashes) > 0


def _read(file: Path) -> list[str]:
    try:
        lines = file.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: {error}") from None
    found = []
    for number, line in enumerate(lines, 1):
        word = line.split("#")[0].split()[:1]
        if not word:
            continue
        if not _HASH.fullmatch(word[0]):
            problem = "is no SHA-256 hash of a key; `printf %s KEY | sha256sum` gives one"
            raise DataError.at(file, number, problem)
        found.append(word[0])
    if not found:
        raise DataError(f"{file} holds no key, so nobody could ask")
    return found


def key_of(headers: dict[str, str]) -> str | None:
    """What a client sends. headers: lower-case names."""
    kind, _, key = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer" and key:
        return key.strip()
    return headers.get("x-api-key") or headers.get("api-key")
