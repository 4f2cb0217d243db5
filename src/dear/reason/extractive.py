"""Reasoning without a language model: the order is the teacher's, and so is the evidence.

A thought says what the query asks about, and quotes the best passages, each with the sentence
that the teacher scores highest. Everything in it can be checked against the texts.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from dear.data.sentences import Span, sentence_ends
from dear.digests import lines_digest
from dear.errors import BackendError, ConfigError, DearError, excerpt
from dear.prompts.listwise import LONGEST_WORD, THOUGHT_TAG
from dear.prompts.permutations import render_permutation
from dear.reason.generate import Cut, Drafts, chunks
from dear.reason.sample import Question
from dear.reason.select import Answer
from dear.records import Passage
from dear.scoring.encoding import Pair
from dear.scoring.opening import PairModel

MIN_WORDS = 5
"""Shorter pieces are headings more often than evidence; quoted only where nothing else is."""

_CHANGED = re.compile(rf"(?:\[(?:[0-9]+|[A-Z])\]|(?i:{THOUGHT_TAG.pattern}))\s*")
"""What a prompt shows otherwise than the passage has it: identifiers and tags of thoughts."""
_CLAUSE = re.compile(r"(?<=[,;:])\s+|(?<=[、，；：—–])\s*|(?<!\s)\s+-\s+")
_BREAK = re.compile(r"\n\s*")
_WORD = re.compile(r"\S+")
_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
CJK_CHARACTERS = 3
"""Characters of a script without spaces that count as a word."""


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
    # what is left out: nothing behind a full stop, all of an identifier
    cuts = [(end, end) for end in sentence_ends(text)]
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


CHUNK = 16
"""Questions that are scored at once, and that a killed job scores again at most."""

Progress = Callable[[int, int, int], None]
"""Called with (questions done, questions in all, those that were there before)."""

Rows: TypeAlias = list[dict[str, Any]]
"""What is kept of questions: the scores of each, and what is quoted."""
Work: TypeAlias = Callable[
    [Iterable[tuple[int, Sequence[Question]]]], Iterator[tuple[int, Rows | DearError]]
]
"""(number, questions) → (number, their rows) in any order, or why there are none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """What is quoted.

    passages:  how many of the best are, of those in the upper half of the list's score range; 0
        for scores alone.
    max_words: of a quote.
    passage_words: words of a passage that a prompt shows, and that may be quoted.
    """

    passages: int = 3
    max_words: int = 30
    passage_words: int = 300

    def __post_init__(self) -> None:
        if self.passages < 0 or self.max_words < 5 or self.passage_words < 5:
            raise ConfigError("evidence: need 0 passages or more, and 5 words or more")


SCORES_ALONE = Evidence(passages=0)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Draft:
    """A question with its scores, and quotes: (position, exact text), best passage first."""

    question: Question
    quotes: tuple[tuple[int, str], ...]


def shown(passage: Passage, words: int) -> list[str]:
    """The parts of a passage that a prompt shows, in order: of its title, then of its text,
    together at most `words` words.

    A prompt shows LONGEST_WORD characters of a word. A part ends behind a word that was cut, so
    that every part is an exact part of the passage and of the prompt.
    """
    parts: list[str] = []
    # a title has no full stop: it is a part of its own
    for text in (passage.title, passage.text):
        first = 0
        kept = text.split()[:words]
        words -= len(kept)
        for i, word in enumerate(kept, 1):
            if len(word) > LONGEST_WORD or i == len(kept):
                parts.append(" ".join(w[:LONGEST_WORD] for w in kept[first:i]))
                first = i
    return parts


def order_of(scores: Sequence[float]) -> tuple[int, ...]:
    """Positions by falling score, ties by position."""
    return tuple(sorted(range(len(scores)), key=lambda i: -scores[i]))


def draft(
    questions: Sequence[Question],
    teacher: PairModel,
    drafts: Drafts,
    evidence: Evidence,
    progress: Progress | None = None,
    *,
    cut: Cut | None = None,
    work: Work | None = None,
) -> list[_Draft]:
    """Scores, where a question has none, and evidence; from `drafts` where they are there.

    Chunks of CHUNK questions are scored together and kept together, so that a killed job that
    goes on ends with the same bytes as one that was never disturbed.

    cut: what is scored together instead; a draft then counts for questions in this company alone.
    work: who scores, the teacher where None; drafts that it gives up are missing once all others
        are kept (BackendError).
    """
    groups = chunks(questions, CHUNK) if cut is None else cut(questions)
    names = [_keys(group, teacher, evidence, alone=cut is not None) for group in groups]
    keys = [key for of_group in names for key in of_group]
    before = done = sum(key in drafts for key in keys)
    if progress is not None:
        progress(done, len(questions), before)
    lacking = (
        (number, group)
        for number, group in enumerate(groups)
        if any(key not in drafts for key in names[number])
    )
    failed: list[tuple[int, DearError]] = []
    for number, rows in (work or partial(_here, teacher=teacher, evidence=evidence))(lacking):
        if isinstance(rows, DearError):
            failed.append((number, rows))
            continue
        done += sum(key not in drafts for key in names[number])
        drafts.append(dict(zip(names[number], rows, strict=True)))
        if progress is not None:
            progress(done, len(questions), before)
    if failed:
        raise _given_up(groups, failed)
    return [
        _Draft(
            question=replace(question, scores=tuple(drafts[key]["scores"])),
            quotes=tuple((i, quote) for i, quote in drafts[key]["quotes"]),
        )
        for question, key in zip(questions, keys, strict=True)
    ]


def _here(
    groups: Iterable[tuple[int, Sequence[Question]]], teacher: PairModel, evidence: Evidence
) -> Iterator[tuple[int, Rows | DearError]]:
    for number, group in groups:
        yield number, score_questions(group, teacher, evidence)


def _given_up(
    groups: Sequence[Sequence[Question]], failed: Sequence[tuple[int, DearError]]
) -> BackendError:
    number, why = failed[0]
    queries = excerpt(", ".join(dict.fromkeys(q.query.id for q in groups[number])))
    more = f" and {len(failed) - 1} more" if len(failed) > 1 else ""
    return BackendError(
        f"no scores for the {len(groups[number]):,} lists of queries {queries}{more}: {why}; all "
        "others are kept, and the same command goes on"
    )


def extract(
    questions: Sequence[Question],
    teacher: PairModel,
    drafts: Drafts,
    evidence: Evidence,
    progress: Progress | None = None,
    *,
    cut: Cut | None = None,
    work: Work | None = None,
) -> list[Answer]:
    """Each question answered by the teacher, to go through the same selection as any other's; as
    `draft`."""
    return [
        Answer(
            question=one.question,
            text=render_permutation(order_of(one.question.scores or ())),
            thought=thought(one),
            source=f"extractive:{teacher.name}",
        )
        for one in draft(questions, teacher, drafts, evidence, progress, cut=cut, work=work)
    ]


def with_scores(
    questions: Sequence[Question],
    teacher: PairModel,
    drafts: Drafts,
    progress: Progress | None = None,
    *,
    cut: Cut | None = None,
    work: Work | None = None,
) -> list[Question]:
    """The same questions, the teacher's scores in those that have none; as `draft`."""
    bare = [question for question in questions if question.scores is None]
    scored = iter(draft(bare, teacher, drafts, SCORES_ALONE, progress, cut=cut, work=work))
    return [next(scored).question if q.scores is None else q for q in questions]


def thought(one: _Draft) -> str:
    """`Needs: …` and a line for each quote; the ranking follows in the answer."""
    lines = [f"Needs: {', '.join(needs(one.question.query.text))}"]
    lines += [f'[{i + 1}]: "{quote}"' for i, quote in one.quotes]
    return "\n".join(lines)


def needs(query: str) -> list[str]:
    """The words of a query that say what is asked for, in its order and spelling; all of it where
    none is left."""
    words = re.findall(r"[^\W_]+(?:[-'’.+/][^\W_]+)*", query.translate(_NO_BRACKETS))
    # NO is nitric oxide, IT a trade
    kept = [w for w in words if w.casefold() not in _EMPTY_WORDS or (w.isupper() and len(w) > 1)]
    named: dict[str, str] = {}
    for word in kept or words:
        named.setdefault(word.casefold(), word)
    return list(named.values()) or [" ".join(query.translate(_NO_BRACKETS).split())]


_NO_BRACKETS = str.maketrans("[]", "()")
_EMPTY_WORDS = frozenset(
    re.findall(
        r"\S+",
        "a about after all also am an and any are as at be been before being between both but by "
        "can could did do does doing for from had has have having he her him his how i if in into "
        "is it its just like made make makes may me mean means more most much must my no nor not "
        "of off on or our out over own s same shall she should so some such t than that the their "
        "them then there these they this those through to too under up us very was we were what "
        "what's when where where's which while who whom whose why will with would you your",
    )
)


@runtime_checkable
class _Embeds(Protocol):
    query_prompt: str
    passage_prompt: str

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]: ...


def _score(teacher: PairModel, pairs: Sequence[Pair]) -> list[float]:
    """Scores that depend on these pairs alone."""
    if not pairs:
        return []
    if isinstance(teacher, _Embeds):
        # its own `score` remembers texts of earlier calls: a job that goes on has made fewer, and
        # would batch, and so round, otherwise
        texts = [(teacher.query_prompt + q, teacher.passage_prompt + p) for q, p in pairs]
        places = {text: i for i, text in enumerate(dict.fromkeys(t for two in texts for t in two))}
        vectors = teacher.embed(list(places))
        return [float(vectors[places[q]] @ vectors[places[p]]) for q, p in texts]
    return teacher.score(pairs).tolist()  # type: ignore[no-any-return]


def score_questions(questions: Sequence[Question], teacher: PairModel, evidence: Evidence) -> Rows:
    """Of questions that are scored together: all pairs of one kind in one call."""
    unscored = [q for q in questions if q.scores is None]
    found = iter(
        _score(teacher, [(q.query.text, p.full_text) for q in unscored for p in q.passages])
    )
    scores = [
        q.scores if q.scores is not None else tuple(next(found) for _ in q.passages)
        for q in questions
    ]
    best = [_best(row, evidence.passages) for row in scores]
    pieces = [
        [_pieces(question.passages[i], evidence) for i in places]
        for question, places in zip(questions, best, strict=True)
    ]
    flat = [
        (question.query.text, piece)
        for question, of_passages in zip(questions, pieces, strict=True)
        for of_passage in of_passages
        for piece in of_passage
    ]
    values = iter(_score(teacher, flat))
    rows: Rows = []
    for row, places, of_passages in zip(scores, best, pieces, strict=True):
        quotes = []
        for i, of_passage in zip(places, of_passages, strict=True):
            rated = [(next(values), piece) for piece in of_passage]
            if rated:
                # the first of equals
                quotes.append((i, max(rated, key=lambda pair: pair[0])[1]))
        rows.append({"scores": row, "quotes": quotes})
    return rows


def _best(scores: Sequence[float], count: int) -> tuple[int, ...]:
    # below the middle there is seldom anything to quote
    middle = (max(scores) + min(scores)) / 2
    return tuple(i for i in order_of(scores)[:count] if scores[i] >= middle)


def _pieces(passage: Passage, evidence: Evidence) -> list[str]:
    return quotable(*shown(passage, evidence.passage_words), max_words=evidence.max_words)


def _keys(
    group: Sequence[Question], teacher: PairModel, evidence: Evidence, *, alone: bool
) -> list[str]:
    """Of the drafts of questions that are scored together. alone: and never with others."""
    company = [lines_digest(question.key for question in group)] if alone else []
    made_of = (teacher.name, teacher.revision, teacher.fingerprint), asdict(evidence), *company
    rows = ([question.key, question.scores, *made_of] for question in group)
    return [hashlib.sha256(json.dumps(row).encode()).hexdigest()[:32] for row in rows]
