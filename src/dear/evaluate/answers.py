"""`answer@k`: do the first k passages hold an answer's words? (top-k accuracy of open-domain QA)

Matching is DPR's (Karpukhin et al., EMNLP 2020, `has_answer`): both texts become lower-case
tokens, and an answer is found where its tokens stand in the passage's, one behind the other. The
title does not count, nor what anybody judged.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import cache

from dear.characters import normal
from dear.errors import ConfigError, DataError
from dear.evaluate.metrics import Evaluation
from dear.records import Passage, Run

_NAME = re.compile(r"answer@([1-9][0-9]*)", re.IGNORECASE)


def answer_cutoff(measure: str) -> int | None:
    """The k of `answer@k`; None for any other measure."""
    found = _NAME.fullmatch(measure.strip())
    return None if found is None else int(found[1])


def tokens(text: str) -> list[str]:
    """Lower-case words of letters, numbers and marks, and every other visible sign by itself."""
    found: list[str] = []
    word: list[str] = []
    # decomposed: é is e and a mark, however it was typed
    for character in normal("NFD", text):
        kind = _kind(character)
        if kind == "L":
            word.append(character)
            continue
        if word:
            found.append("".join(word).lower())
            word.clear()
        if kind == "S":
            found.append(character.lower())
    if word:
        found.append("".join(word).lower())
    return found


@cache
def _kind(character: str) -> str:
    """L: part of a word.  Z: white space and control signs.  S: any other sign."""
    category = unicodedata.category(character)[0]
    return "L" if category in "LNM" else "Z" if category in "ZC" else "S"


def holds_answer(text: str, answers: Iterable[str]) -> bool:
    """Whether one of the answers stands in the text, token by token.

    An answer without a token is in no text.
    """
    return _holds(tokens(text), [tokens(answer) for answer in answers])


def _holds(text: Sequence[str], answers: Iterable[Sequence[str]]) -> bool:
    # no token holds a space
    joined = f" {' '.join(text)} "
    return any(f" {' '.join(answer)} " in joined for answer in answers if answer)


def evaluate_answers(
    run: Run,
    answers: Mapping[str, Sequence[str]],
    corpus: Mapping[str, Passage],
    measures: Sequence[str] = ("answer@1",),
) -> Evaluation:
    """Share of questions with an answer among their best k passages.

    answers: query id → strings, any of which will do. Every question with answers counts, one
    that the run lacks as zero.  corpus: looked up for the best passages only.
    ConfigError: a measure that is no answer@k. DataError: no question at all, or a ranked
    passage without a text.
    """
    cutoffs: dict[str, int] = {}
    for measure in measures:
        cutoff = answer_cutoff(measure)
        if cutoff is None:
            raise ConfigError(f"measure {measure!r} does not read like answer@1")
        cutoffs[f"answer@{cutoff}"] = cutoff
    if not answers or not cutoffs:
        raise DataError("no question has answers: there is nothing to match")
    deepest = max(cutoffs.values())
    per_query: dict[str, dict[str, float]] = {name: {} for name in cutoffs}
    for query_id, strings in answers.items():
        first = _first_hit(query_id, run, strings, corpus, deepest)
        for name, cutoff in cutoffs.items():
            per_query[name][query_id] = float(first is not None and first < cutoff)
    return Evaluation.of(
        per_query,
        missing=tuple(q for q in answers if q not in run or not len(run[q])),
        unjudged=sum(q not in answers for q in run),
    )


def _first_hit(
    query_id: str, run: Run, answers: Sequence[str], corpus: Mapping[str, Passage], depth: int
) -> int | None:
    """Place, from 0, of the first passage that holds an answer; None where none of `depth` does."""
    if query_id not in run:
        return None
    wanted = [tokens(answer) for answer in answers]
    for place, passage_id in enumerate(run[query_id].passage_ids[:depth]):
        passage = corpus.get(passage_id)
        if passage is None:
            raise DataError(
                f"query {query_id!r}: passage {passage_id!r} is not in the corpus, "
                "its text is needed to look for an answer"
            )
        if _holds(tokens(passage.text), wanted):
            return place
    return None
