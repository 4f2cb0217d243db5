"""Where sentences and paragraphs end, in texts of any script."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

_END = re.compile(
    r"(?<![.!?])[.!?]++[\"'”’»)\]]*+(?=\s|$)|[。！？]+[」』”’）]*|…(?=\s|$)|[;؟।](?=\s|$)"
)
_ABBREVIATION = re.compile(
    r"(?:\b(?:[A-Za-z]|(?i:dr|mr|mrs|ms|prof|st|vs|etc|cf|no|nos|vol|pp|fig|figs|eq|al|jr|sr"
    r"|approx|ca|dept|est|inc|ltd|co|corp|gen|sen|rep|gov|e\.g|i\.e|u\.s|u\.k|ph\.d))|\b[A-Za-z](?:\.[A-Za-z])+)$"
)
_VISIBLE = re.compile(r"\S")
_PARAGRAPH = re.compile(r"\n[^\S\n]*\n\s*")

Span = tuple[int, int]


def sentence_ends(text: str) -> Iterator[int]:
    """The position behind each sign, or signs, that end a sentence."""
    for found in _END.finditer(text):
        if not found[0].isascii() or _ends(text, found):
            yield found.end()


def _ends(text: str, found: re.Match[str]) -> bool:
    """Whether these signs end a sentence."""
    behind = _VISIBLE.search(text, found.end())
    follows = "" if behind is None else behind[0]
    if follows.islower():
        return False
    before = text[max(0, found.start() - 12) : found.start()]
    return not (found[0] == "." and follows and _ABBREVIATION.search(before))


def paragraph_spans(text: str) -> list[Span]:
    """Between blank lines, in order; they touch each other."""
    cuts = [0, *(found.end() for found in _PARAGRAPH.finditer(text)), len(text)]
    return [(a, b) for a, b in pairwise(cuts) if a < b]
