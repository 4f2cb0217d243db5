"""What a tokenizer may do with its texts: no multiplying, no regular expressions without an end."""

from __future__ import annotations

import base64
import contextlib
import json
import math
import os
import re
from collections.abc import Iterator
from typing import Any

from dear.checkpoints.threads import in_time
from dear.errors import DataError

MOST_GROWTH = 64
"""Letters that a tokenizer may make of one; of Unicode's own rules (NFKD) it is 18."""

PROBE_SECONDS = 5


def require_bounded_tokenizer(tokenizer: Any, name: str) -> None:
    """DataError for a tokenizer that multiplies its texts, or whose regular expressions do not end
    on texts that are made of what they look for."""
    backend = tokenizer.backend_tokenizer
    patterns: list[str] = []
    for step in (backend.normalizer, backend.pre_tokenizer, backend.decoder):
        if step is None:
            continue
        growth = _growth(json.loads(step.__getstate__()), patterns)
        if growth > MOST_GROWTH:
            raise DataError(f"{name}: the tokenizer makes more than {MOST_GROWTH} letters of one")
    if not patterns:
        return
    found = sorted({word for one in patterns for word in _LITERAL.findall(_CLASS.sub(" ", one))})
    words = [*{letter for word in found for letter in word}, *found][:200]
    texts = [(word * 1_000)[:1_000] + "\x01!" for word in [*" \n1a.中", *words]]
    with _silent_panics():
        in_time(
            lambda: tokenizer(texts),
            PROBE_SECONDS,
            f"{name}: a regular expression of the tokenizer",
        )


_CLASS = re.compile(r"\\[pP]\{[^}]*\}|\\.|\{[\d,]*\}")
_LITERAL = re.compile(r"\w+")


def _growth(step: Any, patterns: list[str]) -> float:
    """Letters that the steps make of one at most; their regular expressions go to `patterns`."""
    if isinstance(step, list):
        return math.prod(_growth(one, patterns) for one in step)
    if not isinstance(step, dict):
        return 1.0
    pattern = step.get("pattern")
    repeated = 1
    if isinstance(pattern, dict):
        if "Regex" in pattern:
            patterns.append(pattern["Regex"])
        else:
            repeated = max(1, len(pattern.get("String", "")))
    grown = 1.0
    if "content" in step:
        added = len(step["content"])
        # a regular expression may match between two letters
        grown = 1 + added if isinstance(pattern, dict) and "Regex" in pattern else added / repeated
    if step.get("type") == "Prepend":
        grown = 1 + len(step.get("prepend", "")) / MOST_GROWTH
    if step.get("precompiled_charsmap"):
        grown = _longest_entry(step["precompiled_charsmap"])
    inner = [_growth(one, patterns) for one in step.values() if isinstance(one, list)]
    return max(1.0, grown) * math.prod(inner)


def _longest_entry(charsmap: str) -> int:
    """Letters of the longest replacement in SentencePiece's table: a trie, then texts that end
    with NUL."""
    raw = base64.b64decode(charsmap)
    trie = int.from_bytes(raw[:4], "little")
    return max(len(entry.decode(errors="replace")) for entry in raw[4 + trie :].split(b"\0"))


@contextlib.contextmanager
def _silent_panics() -> Iterator[None]:
    """Rust writes of its panics to standard error itself."""
    try:
        kept = os.dup(2)
    except OSError:
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
