"""Documents to passages: by paragraphs and sentences, with overlap, in tokens.

A document is read as the positions where its tokens begin, so that any part of it is counted
without being read again.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from dear.data.sentences import Span, paragraph_spans, sentence_ends
from dear.errors import ConfigError
from dear.records import Passage

MARK = "#"
"""Between a document's id and the number of a passage of it."""

LONGEST_TOKEN = 24
"""Characters; a longer word counts as several tokens, so that one without an end is cut, too."""

_WORD = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\s\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+"
)
_LINE = re.compile(r"\n+")

_Starts = Sequence[int]
"""Where each token of a text begins, rising."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitSize:
    """size: tokens of a passage, title included.  overlap: tokens that a passage may repeat of the
    one before, in whole sentences.  ConfigError where they leave nothing to go forward by."""

    size: int = 192
    overlap: int = 32

    def __post_init__(self) -> None:
        if self.size < 8:
            raise ConfigError(f"a passage of {self.size} tokens is too short: 8 or more")
        if not 0 <= self.overlap <= self.size // 2:
            raise ConfigError(
                f"an overlap of {self.overlap} tokens: 0 to half of a passage's {self.size}"
            )


def word_starts(text: str) -> list[int]:
    """Words as tokens; a character each in scripts without spaces."""
    return bounded_starts(found.span() for found in _WORD.finditer(text))


def bounded_starts(tokens: Iterable[Span]) -> list[int]:
    """Where tokens of at most LONGEST_TOKEN characters begin, of the spans of any."""
    starts: list[int] = []
    for start, stop in tokens:
        if stop > start:
            starts += range(start, stop, LONGEST_TOKEN)
    return starts


def split_document(
    document: Passage, starts: _Starts, title_tokens: int, split: SplitSize, mark: str = MARK
) -> Iterator[Passage]:
    """The passages of a document, in order, each with its title; one where it is short or empty.

    starts: of the text's tokens.  A title takes its room from the text, up to half of it.
    """
    room = max(split.size - title_tokens, split.size // 2)
    spans = _packed(_Counted(document.text, starts), room, min(split.overlap, room // 2))
    for number, (start, stop) in enumerate(spans or [(0, len(document.text))], 1):
        yield Passage(
            id=f"{document.id}{mark}{number}",
            title=document.title,
            text=document.text[start:stop].strip(),
        )


def safe_mark(document_ids: Iterable[str]) -> str:
    """MARK, as often as it takes that no passage's id is another document's."""
    # ids that end as passages' do are few
    ending = re.compile(rf"({MARK}+)\d+$")
    longest = max((len(m[1]) for i in document_ids if (m := ending.search(i))), default=0)
    return MARK * (longest + 1)


class _Counted:
    def __init__(self, text: str, starts: _Starts) -> None:
        self.text, self.starts = text, starts

    def tokens(self, start: int, stop: int) -> int:
        return bisect_left(self.starts, stop) - bisect_left(self.starts, start)

    def cut(self, start: int, stop: int, most: int) -> list[Span]:
        """Spans of at most `most` tokens, cut between tokens."""
        first, end = bisect_left(self.starts, start), bisect_left(self.starts, stop)
        cuts = [start, *(self.starts[i] for i in range(first + most, end, most)), stop]
        return list(pairwise(cuts))


def _packed(counted: _Counted, room: int, overlap: int) -> list[Span]:
    """Spans of at most `room` tokens, of whole sentences, better of whole paragraphs."""
    sentences, last = _sentences(counted, room)
    spans: list[Span] = []
    first = at = 0  # the passage's first sentence; the first that no earlier passage has
    while at < len(sentences):
        start, stop = sentences[first][0], at + 1
        while stop < len(sentences) and counted.tokens(start, sentences[stop][1]) <= room:
            stop += 1
        if stop < len(sentences):
            stop = _paragraph_end(counted, sentences, last, start, range(at + 1, stop + 1))
        spans.append((start, sentences[stop - 1][1]))
        before, first, at = first, stop, stop
        while at < len(sentences) and first - 1 > before:
            earlier = sentences[first - 1][0]
            if counted.tokens(earlier, sentences[at - 1][1]) > overlap:
                break
            if counted.tokens(earlier, sentences[at][1]) > room:
                break
            first -= 1
    return spans


def _paragraph_end(
    counted: _Counted, sentences: Sequence[Span], last: set[int], start: int, stops: range
) -> int:
    """The last of `stops` that ends a paragraph in the second half of the passage that begins at
    `start`, else the last."""
    full = counted.tokens(start, sentences[stops[-1] - 1][1])
    for stop in reversed(stops):
        if 2 * counted.tokens(start, sentences[stop - 1][1]) < full:
            break
        if stop - 1 in last:
            return stop
    return stops[-1]


def _sentences(counted: _Counted, room: int) -> tuple[list[Span], set[int]]:
    """Spans of at most `room` tokens that touch each other, and which of them end a paragraph."""
    found: list[Span] = []
    last: set[int] = set()
    ends = list(sentence_ends(counted.text))
    for start, stop in paragraph_spans(counted.text):
        inside = ends[bisect_left(ends, start + 1) : bisect_left(ends, stop)]
        for span in pairwise([start, *inside, stop]):
            found += _fitting(counted, span, room)
        last.add(len(found) - 1)
    return found, last


def _fitting(counted: _Counted, span: Span, room: int) -> Iterator[Span]:
    """The span, or where it is too long its lines, or those in pieces; blank ones are none."""
    start, stop = span
    if counted.tokens(start, stop) <= room:
        lines = [span]
    else:
        breaks = (found.end() for found in _LINE.finditer(counted.text, start, stop))
        lines = list(pairwise(sorted({start, *breaks, stop})))
    for line in lines:
        if counted.text[slice(*line)].strip():
            yield from counted.cut(*line, room)
