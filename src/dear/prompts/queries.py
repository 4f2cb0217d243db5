"""Prompts that ask a language model for a query, and what is read of its answer; pure.

A few documents with their queries, a turn each, then the document at hand (InPars, Bonifacio et
al. 2022); with a collection's own pairs in their place it is Promptagator's (Dai et al. 2022).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from dear.prompts.listwise import Role, WindowPrompt, guarded
from dear.records import Passage, Query


@dataclass(frozen=True, slots=True)
class Shot:
    """One example: a document and a query that it answers."""

    document: str
    query: str


GENERAL_SHOTS = (
    Shot(
        "Lithium batteries lose capacity when they are kept full and warm. For storage over "
        "months they should be charged to about half and put in a cool, dry place.",
        "how to store lithium batteries for a long time",
    ),
    Shot(
        "The library is open from nine to six on weekdays. Books may be borrowed for four weeks; "
        "a fee of ten cents is due for each day beyond that, and cards with fees above five "
        "dollars are blocked until they are paid.",
        "what happens if I return library books late",
    ),
    Shot(
        "Barn owls nest in hollow trees and old buildings. They hunt at night by hearing alone, "
        "and a pair with young takes more than a thousand mice in a season.",
        "how do barn owls find their prey in the dark",
    ),
)

_TASK = (
    "Write one search query that this document answers, as somebody would type it who does not "
    "know the document. Answer with the query alone, on one line.\n\n"
)
_LABEL = re.compile(
    r"^(?:(?:relevant |search )?(?:query|question)\s*\d*\s*[:：]\s*)", re.IGNORECASE
)
_BULLET = re.compile(r"^(?:[-*•]|\d{1,2}[.)])\s+")
_QUOTES = "\"'“”„‘’«»`* "


def query_prompt(
    passage: Passage, shots: Sequence[Shot] = GENERAL_SHOTS, *, max_words: int = 200
) -> WindowPrompt:
    """What asks for a query to `passage`. No document can end its quotation (`guarded`)."""
    turns: list[tuple[Role, str]] = []
    for shot in shots:
        turns += [("user", _asked(shot.document, max_words)), ("assistant", guarded(shot.query))]
    turns.append(("user", _asked(passage.full_text, max_words)))
    return WindowPrompt(
        query=Query(id=passage.id, text=""),
        passages=(passage,),
        messages=tuple(turns),
        identifiers=("1",),
        guard=True,
    )


def _asked(document: str, max_words: int) -> str:
    # a script without spaces has few and long words
    shown = guarded(document, max_words)[: max_words * _WORD_CHARACTERS]
    return f'{_TASK}Document: "{shown}"\nQuery:'


_WORD_CHARACTERS = 10


def read_query(answer: str, *, cut: bool = False) -> str | None:
    """The query in an answer: its first line that says something, without labels and quotation
    marks. None where there is none, or where it was cut in the middle."""
    text = answer.rpartition("</think>")[2]
    lines = [line.strip() for line in text.splitlines() if line.strip(_QUOTES)]
    if not lines:
        return None
    first = _LABEL.sub("", _BULLET.sub("", lines[0].strip(_QUOTES))).strip(_QUOTES)
    if cut and len(lines) == 1:
        question, mark, _ = first.partition("?")
        return f"{question}?" if mark else None
    return first or None
