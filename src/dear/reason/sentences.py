"""A passage cut into what can be quoted: sentences, or parts of long ones, as exact spans."""

from __future__ import annotations

import math
import re
from bisect import bisect_left

from dear.prompts.guarding import THOUGHT_TAG

MIN_WORDS = 5
"""Shorter pieces are headings more often than evidence; quoted only where nothing else is."""

_END = re.compile(
    r"(?<![.!?])[.!?]++[\"'”’»)\]]*+(?=\s|$)|[。！？]+[」』”’）]*|…(?=\s|$)|[;؟।](?=\s|$)"
)
_ABBREVIATION = re.compile(
    r"(?:\b(?:[A-Za-z]|(?i:dr|mr|mrs|ms|prof|st|vs|etc|cf|no|nos|vol|pp|fig|figs|eq|al|jr|sr"
    r"|approx|ca|dept|est|inc|ltd|co|corp|gen|sen|rep|gov|e\.g|i\.e|u\.s|u\.k|ph\.d))|\b[A-Za-z](?:\.[A-Za-z])+)$"
)
_CHANGED = re.compile(rf"(?:\[(?:[0-9]+|[A-Z])\]|(?i:{THOUGHT_TAG.pattern}))\s*")
"""What a prompt shows otherwise than the passage has it: identifiers and tags of thoughts."""
_CLAUSE = re.compile(r"(?<=[,;:])\s+|(?<=[、，；：—–])\s*|(?<!\s)\s+-\s+")
_BREAK = re.compile(r"\n\s*")
_VISIBLE = re.compile(r"\S")
_WORD = re.compile(r"\S+")
_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
CJK_CHARACTERS = 3
"""Characters of a script without spaces that count as a word."""

Span = tuple[int, int]


def quotable(*texts: str, max_words: int = 30) -> list[str]:
    """The pieces of these texts that may be quoted, in order: each an exact part of one.

    Sentences; longer ones than `max_words` are cut at clauses, else between words. No piece holds
    anything that looks like an identifier (`[3]`, `[A]`) or like the beginning or the end of a
    thought (`</think>`). One of pieces of fewer than MIN_WORDS words alone is given only where
    there is nothing longer. [] for a text of nothing but signs.
    """
    sentences = (text[start:stop] for text in texts for start, stop in _sentences(text))
    pieces = [piece for sentence in sentences for piece in _cut(sentence, max_words)]
    pieces = [p for p in (p.strip() for p in pieces) if any(map(str.isalnum, p))]
    return [p for p in pieces if _words(p) >= MIN_WORDS] or pieces


def _sentences(text: str) -> list[Span]:
    """Spans between full stops that end something, line breaks, identifiers and tags."""
    cuts: list[Span] = []  # what is left out: nothing behind a full stop, all of an identifier
    for found in _END.finditer(text):
        if found[0].isascii() and not _ends(text, found):
            continue
        cuts.append((found.end(), found.end()))
    for left_out in (_BREAK, _CHANGED):
        for found in left_out.finditer(text):
            start = found.start()
            while start and text[start - 1].isspace():  # `\s*` in front would be quadratic
                start -= 1
            cuts.append((start, found.end()))
    spans, at = [], 0
    for start, stop in sorted(cuts):
        if start >= at:
            spans.append((at, start))
        at = max(at, stop)
    return [*spans, (at, len(text))]


def _ends(text: str, found: re.Match[str]) -> bool:
    """Whether these signs end a sentence."""
    behind = _VISIBLE.search(text, found.end())
    follows = "" if behind is None else behind[0]
    if follows.islower():
        return False
    before = text[max(0, found.start() - 12) : found.start()]
    return not (found[0] == "." and follows and _ABBREVIATION.search(before))


def _words(text: str) -> int:
    unspaced = len(_CJK.findall(text))
    return len(text.split()) + unspaced // CJK_CHARACTERS


def _cut(sentence: str, max_words: int) -> list[str]:
    """`sentence` in pieces of at most `max_words` words."""
    words = _words(sentence)
    if words <= max_words:
        return [sentence]
    counted = _Counted(sentence)
    # pieces of about one length: the last words alone say nothing
    aim = min(max_words, math.ceil(1.25 * words / math.ceil(words / max_words)))
    atoms: list[Span] = []
    at = 0
    for found in [*_CLAUSE.finditer(sentence), None]:
        stop = len(sentence) if found is None else found.start()
        atoms += _halved(counted, (at, stop), max_words)
        at = stop
    pieces: list[Span] = []
    for start, stop in atoms:
        if pieces and counted.words(pieces[-1][0], stop) <= aim:
            pieces[-1] = (pieces[-1][0], stop)
        else:
            pieces.append((start, stop))
    return [sentence[start:stop] for start, stop in pieces]


class _Counted:
    """A text whose spans are counted without being read again."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._words = [m.start() for m in _WORD.finditer(text)]
        self._unspaced = [m.start() for m in _CJK.finditer(text)]

    def words(self, start: int, stop: int) -> int:
        """`_words` of text[start:stop], which is not empty."""
        first = bisect_left(self._words, start)
        found = bisect_left(self._words, stop) - first
        begins = first < len(self._words) and self._words[first] == start
        found += not begins and not self.text[start].isspace()
        unspaced = bisect_left(self._unspaced, stop) - bisect_left(self._unspaced, start)
        return found + unspaced // CJK_CHARACTERS


def _halved(counted: _Counted, span: Span, max_words: int) -> list[Span]:
    """`span` cut between words, or inside what has no spaces, until every part is short enough."""
    text, (start, stop) = counted.text, span
    if start >= stop or counted.words(start, stop) <= max_words:
        return [span] if start < stop else []
    middle = (start + stop) // 2
    spaces = [m.start() for m in re.finditer(r"(?<=\S)\s+(?=\S)", text[start:stop])]
    at = min((start + s for s in spaces), key=lambda s: abs(s - middle), default=middle)
    return [*_halved(counted, (start, at), max_words), *_halved(counted, (at, stop), max_words)]
