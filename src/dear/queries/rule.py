"""Queries made from a passage without any model: its title, its headings, its sentences."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Sequence
from itertools import pairwise

from dear.data.sentences import paragraph_spans, sentence_ends
from dear.data.splitting import word_starts
from dear.errors import ConfigError, nearest
from dear.records import Passage

KINDS = ("title", "heading", "sentence")

_SHORTEST, _LONGEST = 2, 25
"""Words of a query; characters in scripts without spaces."""

_SENTENCE_WORDS = 5
_HEADING_WORDS = 10
_PLAIN = 0.8
"""Share of a query's words that are made of letters and digits alone."""
_JOINED = re.compile(r"[-'’/]")
_PUNCTUATION = ",;:.!?()\"'“”‘’«»、，；：。！？"

_FIRST_SENTENCES = 5
"""Sentences that are drawn from: a passage says first what it is about."""


def check_kinds(kinds: Sequence[str]) -> None:
    """ConfigError for one that is not in KINDS, or none at all."""
    for kind in kinds:
        if kind not in KINDS:
            raise ConfigError(f"no kind of query {kind!r}{nearest(kind, KINDS)}")
    if not kinds:
        raise ConfigError(f"no kind of query; there are: {', '.join(KINDS)}")


def rule_queries(
    passage: Passage, kinds: Sequence[str] = KINDS, *, count: int = 1, seed: int = 0
) -> list[tuple[str, str]]:
    """(kind, text) of at most `count` queries, drawn by the passage's id and the seed alone.

    Kinds take turns in a drawn order.
    """
    digest = hashlib.sha256(f"{seed}:{passage.id}".encode()).digest()
    dice = random.Random(int.from_bytes(digest[:8], "big"))
    found = {"title": _title(passage), "heading": _headings(passage), "sentence": _said(passage)}
    drawn = []
    for kind in kinds:
        texts = found[kind]
        dice.shuffle(texts)
        drawn.append([(turn, dice.random(), kind, text) for turn, text in enumerate(texts)])
    order = sorted(entry for entries in drawn for entry in entries)
    queries: dict[str, str] = {}
    for _, _, kind, text in order:
        queries.setdefault(text, kind)
    return [(kind, text) for text, kind in list(queries.items())[:count]]


def is_query(text: str) -> bool:
    """Whether a text is as long as queries are, and most of it words: no code, no table."""
    words = [_JOINED.sub("", word.strip(_PUNCTUATION)) for word in text.split()]
    plain = sum(map(str.isalnum, words)) >= _PLAIN * len(words) and any(map(str.isalpha, words))
    return plain and _SHORTEST <= len(word_starts(text)) <= _LONGEST


def _title(passage: Passage) -> list[str]:
    title = _plain(passage.title)
    return [title] if is_query(title) else []


def _headings(passage: Passage) -> list[str]:
    """Short paragraphs without a full stop that stand above another one; behind the title where
    they say little alone."""
    spans = [passage.text[a:b].strip() for a, b in paragraph_spans(passage.text)]
    found = []
    for above, below in pairwise(spans):
        words = above.split()
        short = 0 < len(words) <= _HEADING_WORDS and "\n" not in above
        if not short or above[-1] in ".!?:;,。！？" or len(below.split()) <= len(words):
            continue
        text = _plain(above if len(words) > _SHORTEST else f"{passage.title} {above}")
        if is_query(text):
            found.append(text)
    return found


def _said(passage: Passage) -> list[str]:
    """The first sentences of a usual length, without their full stops."""
    found: list[str] = []
    for start, stop in paragraph_spans(passage.text):
        paragraph = passage.text[start:stop]
        cuts = [0, *sentence_ends(paragraph), len(paragraph)]
        for a, b in pairwise(cuts):
            text = _plain(paragraph[a:b])
            if is_query(text) and len(word_starts(text)) >= _SENTENCE_WORDS:
                found.append(text)
            if len(found) == _FIRST_SENTENCES:
                return found
    return found


def _plain(text: str) -> str:
    return " ".join(text.split()).strip(" .。;:#*-")
