"""Orders as text: identifiers, the answer that names them, and its reading; pure.

`parse_permutation` is the inverse of `render_permutation`, and reads whatever else models write.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from dear.errors import ConfigError, ParseError, excerpt

Identifiers: TypeAlias = Literal["numbers", "letters"]
Mend: TypeAlias = Literal[
    "missing", "duplicate", "out of range", "no brackets", "cut off", "thought stripped"
]


def identifiers(kind: Identifiers, count: int) -> tuple[str, ...]:
    """ "1" … or "A" …. ConfigError: letters for more than 26 passages."""
    if kind == "numbers":
        return tuple(map(str, range(1, count + 1)))
    if count > len(string.ascii_uppercase):
        raise ConfigError(f"{count} passages: a prompt with letters holds 26 at most")
    return tuple(string.ascii_uppercase[:count])


def render_permutation(
    order: Sequence[int], kind: Identifiers = "numbers", *, thought: str = ""
) -> str:
    """`[2] > [1] > [3]` for (1, 0, 2), behind the thought if there is one: what
    `parse_permutation` reads.

    thought: names passages by numbers, [1] for position 0; they become letters where `kind` says.
    """
    named = identifiers(kind, max(order, default=-1) + 1)
    chain = " > ".join(f"[{named[i]}]" for i in order)
    if not thought:
        return chain
    return f"<think>\n{renumber(thought, range(len(named)), kind)}\n</think>\n{chain}"


def renumber(text: str, places: Sequence[int], kind: Identifiers = "numbers") -> str:
    """`text` with each [n] named by its new place, places[n - 1]; others are left as they are."""
    named = identifiers(kind, max(places, default=-1) + 1)

    def new(match: re.Match[str]) -> str:
        i = int(match[1])
        return f"[{named[places[i - 1]]}]" if 1 <= i <= len(places) else match[0]

    return re.sub(r"\[([0-9]{1,6})\]", new, text)


@dataclass(frozen=True, kw_only=True, slots=True)
class Parsed:
    """An answer as a permutation.

    order:    every position of the window once, counted from 0, best first.
    complete: the answer itself named every one.
    mends:    kind → how many; empty where the answer needed none.
    """

    order: tuple[int, ...]
    complete: bool
    mends: Mapping[Mend, int]


def parse_permutation(text: str, count: int, kind: Identifiers = "numbers") -> Parsed:
    """The ranking of `count` passages that `text` ends in; nothing else in it is read.

    kind: letters are read as numbers are, from their brackets alone; bare letters are words.

    A thought (all up to the last `</think>`) is stripped first. Where there are `<answer>` tags
    or a line that begins with "Final Reranking" or the like, what stands in them or behind it is
    read, and the rest only if no identifier is there. Then the first of these that is found:

    1. the last chain `[a] > [b] > …` that names every passage; a run or list (3, 4) that does, in
       another order than they have in the prompt;
    2. the last chain that names more than half of the passages;
    3. the last run of identifiers with nothing but separators and list numbers between them
       (`1. [a] 2. [b]`, `[a], [b]`) that names more than half;
    4. identifiers at the starts of lines, if they name more than half (neither 3 nor 4 counts
       where a chain comes behind it);
    5. without brackets, if it names more than half: a line `3 > 1 > 2`, `(3) > (1)`, `ID 3, ID 1`;
       a JSON list of numbers or of objects with an id; lines `1. Passage 3`, `Doc: 3, …`; a
       number a line;
    6. the chain that names most, the last of equals;  7. such a run;
    8. a line of bare numbers, most of them in range;
    9. every identifier in brackets, in order.

    Bare numbers in prose are never identifiers. Duplicates and identifiers that are not 1 … count
    are dropped, missing ones appended in the window's order; `mends` counts all of it.
    ParseError: there is no identifier, the thought never ends, or nothing is behind "Final".
    """
    answer, thought = _strip_thought(text)
    plain = answer.translate(_PLAIN)
    if kind == "letters":
        plain = _letters_to_numbers(plain)
    for region in _regions(plain):
        for read, bare in _READINGS:
            if bare and kind == "letters":
                continue
            if named := read(region, count):
                return _mend(named, count, plain, thought=thought, bare=bare)
    raise ParseError(f"no identifier of 1 to {count} in the answer {excerpt(text.strip())}")


_PLAIN = str.maketrans(
    {"［": "[", "］": "]", "【": "[", "】": "]", "＞": ">", "≻": ">", "→": ">", "≥": ">"}
    | dict.fromkeys("*`\\", None)
)
"""Other people's brackets and signs; marks of emphasis are dropped."""

_THOUGHT = r"(?:think|thinking|thought|reasoning)"
_ID = r"\[[ \t]?(?:(?:passage|document|doc|id)[ \t]?)?#?([0-9]{1,6})[ \t]?\]"
# "> 2. [15]": some models number the members of a chain
_CHAIN = re.compile(rf"{_ID}(?:\s*[>=]+\s*(?:[0-9]{{1,3}}[.)]\s*)?{_ID})+", re.IGNORECASE)
_RUN = re.compile(rf"{_ID}(?:(?:[\s>=,;|-]|[0-9]{{1,3}}[.)])*{_ID})+", re.IGNORECASE)
# possessive: what is no identifier behind white space is none behind less of it
_LINE = re.compile(
    rf"^[ \t]*+(?:[0-9]{{1,3}}[.):]|[-•+])?[ \t]*+{_ID}", re.IGNORECASE | re.MULTILINE
)
_EACH = re.compile(_ID, re.IGNORECASE)
_NOUN = r"(?:passage|document|doc|text|id)"
_WORD = rf"\(?(?:{_NOUN}[ \t]?)?#?[0-9]{{1,6}}\)?"
_BARE = re.compile(
    rf"^[^\n:0-9(]*?(?::[ \t]*)?\[?({_WORD}(?:[ \t]*(?:-?>|[=,])[ \t]*{_WORD})+)\]?[ \t.>,]*$",
    re.IGNORECASE | re.MULTILINE,
)
_JSON_LIST = re.compile(r'\[\s*"?[0-9]{1,6}"?(?:\s*,\s*"?[0-9]{1,6}"?)+\s*,?\s*\]')
_JSON_ID = re.compile(rf'"{_NOUN}(?:[_ ]?(?:id|number))?"\s*:\s*"?([0-9]{{1,6}})\b', re.IGNORECASE)
# "1. Passage 3", "Doc: 3, Relevance: 7", "1. 3"
_NAMED_LINE = re.compile(
    rf"^[ \t]*+(?:(?:[0-9]{{1,3}}[.):]|[-•+])[ \t]*+)?{_NOUN}[ \t]?[:#]?[ \t]?([0-9]{{1,6}})\b"
    r"|^[ \t]*+[0-9]{1,3}[.)][ \t]++([0-9]{1,6})[ \t]*+$",
    re.IGNORECASE | re.MULTILINE,
)
_NUMBER_LINE = re.compile(
    r"^[ \t]*+(?:[-•+][ \t]*+)?([0-9]{1,6})[ \t]*+[,;]?[ \t]*+$", re.MULTILINE
)
_FINAL = re.compile(
    r"^[# \t]*final(?:[ \t]+(?:re-?)?(?:rank|answer|order|list|result)\w*)?[ \t]*(?::|$)",
    re.IGNORECASE | re.MULTILINE,
)
_ANSWER = re.compile(r"<answer>(.*?)(?:</answer>|\Z)", re.IGNORECASE | re.DOTALL)
_ANSWER_TAG = re.compile(r"</?answer>", re.IGNORECASE)
# at the end of the answer, white space stripped
_CUT_BARE = re.compile(r"[>,]\Z")
_CUT = re.compile(r"(?:>\s{0,9}(?:[0-9]{1,6}[.)]?)?|\[[ \t]?[0-9]{0,6}|\]\s{1,9}[0-9]{1,6}[.)]?)\Z")
_END = 40
"""Characters that say whether an answer was cut off."""


def _letters_to_numbers(text: str) -> str:
    """[B] as [2]; a number in brackets is none of ours then."""
    text = re.sub(r"\[([0-9]+)\]", r"(\1)", text)
    return re.sub(r"\[[ \t]?([A-Z])[ \t]?\]", lambda m: f"[{ord(m[1]) - ord('A') + 1}]", text)


def _strip_thought(text: str) -> tuple[str, bool]:
    """(the answer, whether there was a thought before it)."""
    parts = re.split(rf"</{_THOUGHT}>", text, flags=re.IGNORECASE)
    thoughts, answer = parts[:-1], parts[-1]
    head, opened, _ = _partition(rf"<{_THOUGHT}>", answer)
    if opened and not re.search(r"\[[0-9]", head):
        raise ParseError(f"the thought never ends: {excerpt(text.strip())}")
    words = re.sub(rf"<{_THOUGHT}>", "", "".join(thoughts), flags=re.IGNORECASE)
    return head, bool(words.strip()) or opened


def _partition(pattern: str, text: str) -> tuple[str, bool, str]:
    found = re.search(pattern, text, re.IGNORECASE)
    return (text[: found.start()], True, text[found.end() :]) if found else (text, False, "")


def _regions(text: str) -> list[str]:
    """Where to look, the likeliest first."""
    answers = [m[1] for m in _ANSWER.finditer(text)][-1:]
    finals = [text[m.end() :] for m in _FINAL.finditer(text)][-1:]
    if finals and not finals[0].strip():
        raise ParseError(f"the answer ends before its ranking: {excerpt(text.strip()[-60:])}")
    return [*answers, *finals, text]


def _ids(text: str) -> list[int]:
    return [int(m[1]) for m in _EACH.finditer(text)]


def _named(ids: Sequence[int], count: int) -> int:
    return len({i for i in ids if 1 <= i <= count})


def _last(
    pattern: re.Pattern[str], text: str, count: int, *, least: int, start: int = 0
) -> list[int]:
    """The last match that names at least `least` passages and ends at `start` or behind it."""
    best: list[int] = []
    for match in pattern.finditer(text):
        if match.end() >= start:
            ids = _ids(match[0])
            if _named(ids, count) >= least:
                best = ids
    return best


def _most(pattern: re.Pattern[str], text: str, count: int) -> list[int]:
    """The match that names most passages, the last of equals."""
    best: list[int] = []
    most = 1
    for match in pattern.finditer(text):
        ids = _ids(match[0])
        named = _named(ids, count)
        if named >= most:
            best, most = ids, named
    return best


def _more_than_half(count: int) -> int:
    return count // 2 + 1


def _chains_end(text: str) -> int:
    return max((m.end() for m in _CHAIN.finditer(text)), default=0)


def _complete_list(text: str, count: int) -> list[int]:
    """A run or list that names every passage; not one that goes through them as they were given."""
    runs = [_ids(m[0]) for m in _RUN.finditer(text)]
    lines = [int(m[1]) for m in _LINE.finditer(text)]
    for ids in (*reversed(runs), lines):
        order = list(dict.fromkeys(ids))
        if _named(order, count) == count and order != sorted(order):
            return ids
    return []


def _line_starts(text: str, count: int) -> list[int]:
    found = list(_LINE.finditer(text))
    if not found or found[-1].end() < _chains_end(text):
        return []
    ids = [int(m[1]) for m in found]
    return ids if _named(ids, count) >= _more_than_half(count) else []


def _bare_line(text: str, count: int, least: int = 2) -> list[int]:
    """The line of numbers that names most, the last of equals; most of them must be in range."""
    best: list[int] = []
    most = least
    for match in _BARE.finditer(text):
        ids = [int(n) for n in re.findall(r"[0-9]+", match[1])]
        inside = sum(1 <= i <= count for i in ids)
        named = _named(ids, count)
        if inside > 1 and 2 * inside > len(ids) and named >= most:
            best, most = ids, named
    return best


def _json(text: str, count: int) -> list[int]:
    best: list[int] = []
    for match in _JSON_LIST.finditer(text):
        ids = [int(n) for n in re.findall(r"[0-9]+", match[0])]
        if _named(ids, count) >= _more_than_half(count):
            best = ids
    return best or _together(_JSON_ID, text, count)


def _together(pattern: re.Pattern[str], text: str, count: int) -> list[int]:
    """The number of each match, if all name more than half."""
    ids = [int(m[m.lastindex or 0]) for m in pattern.finditer(text)]
    return ids if len(ids) > 1 and _named(ids, count) >= _more_than_half(count) else []


def _anything(text: str, count: int) -> list[int]:
    ids = _ids(text)
    return ids if _named(ids, count) else []


_READINGS: tuple[tuple[Callable[[str, int], list[int]], bool], ...] = (
    (lambda text, count: _last(_CHAIN, text, count, least=count), False),
    (_complete_list, False),
    (lambda text, count: _last(_CHAIN, text, count, least=_more_than_half(count)), False),
    (
        lambda text, count: _last(
            _RUN, text, count, least=_more_than_half(count), start=_chains_end(text)
        ),
        False,
    ),
    (_line_starts, False),
    (lambda text, count: _bare_line(text, count, max(2, _more_than_half(count))), True),
    (_json, True),
    (lambda text, count: _together(_NAMED_LINE, text, count), True),
    (lambda text, count: _together(_NUMBER_LINE, text, count), True),
    (lambda text, count: _most(_CHAIN, text, count), False),
    (lambda text, count: _most(_RUN, text, count), False),
    (_bare_line, True),
    (_anything, False),
)
"""(text, how many passages) → the identifiers, none where it does not apply; whether they stand
without brackets. The first that finds any is taken."""


def _mend(named: Sequence[int], count: int, answer: str, *, thought: bool, bare: bool) -> Parsed:
    inside = [i - 1 for i in named if 1 <= i <= count]
    order = list(dict.fromkeys(inside))
    missing = [i for i in range(count) if i not in set(order)]
    end = _ANSWER_TAG.sub("", answer).rstrip()
    mends: dict[Mend, int] = {
        "missing": len(missing),
        "duplicate": len(inside) - len(order),
        "out of range": len(named) - len(inside),
        "no brackets": int(bare),
        "cut off": int(bool((_CUT_BARE if bare else _CUT).search(end[-_END:]))),
        "thought stripped": int(thought),
    }
    return Parsed(
        order=(*order, *missing),
        complete=not missing,
        mends={kind: number for kind, number in mends.items() if number},
    )
