"""The same question in other words, by simple rules: no model writes a paraphrase here."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from dear.evaluate.robustness.report import Line
from dear.evaluate.robustness.subject import Subject, asking
from dear.evaluate.robustness.texts import (
    question_word_last,
    typos,
    without_question_mark,
    without_stop_words,
    word_order,
)

CHANGES: dict[str, Callable[[str, random.Random], str]] = {
    "typos in 10% of the words": lambda text, rng: typos(text, 0.1, rng),
    "typos in 25% of the words": lambda text, rng: typos(text, 0.25, rng),
    "typos in 50% of the words": lambda text, rng: typos(text, 0.5, rng),
    "lower case": lambda text, _: text.lower(),
    "upper case": lambda text, _: text.upper(),
    "question mark changed": lambda text, _: without_question_mark(text),
    "rule: without stop words": lambda text, _: without_stop_words(text),
    "rule: question word last": lambda text, _: question_word_last(text),
    "rule: words in random order": word_order,
}
"""Name → the new text. Those that begin with `rule:` stand in for a paraphrase."""


def queries(subject: Subject) -> Iterator[Line]:
    """Queries typed badly, or put in another way. Only those that a rule changes count."""
    variants = {}
    for name, change in CHANGES.items():
        asked = [
            asking(c, change(c.query.text, subject.rng("queries", name, c.query.id)))
            for c in subject.candidates
        ]
        other = [
            a
            for a, c in zip(asked, subject.candidates, strict=True)
            if a.query.text != c.query.text
        ]
        if other:
            variants[name] = other
    for name, found in subject.rank_all(variants).items():
        yield subject.by_ndcg("queries", name, found)
