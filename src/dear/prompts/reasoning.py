"""Thought and answer: split them, read what a thought cites, read a window back from its prompt."""

from __future__ import annotations

import re
from collections.abc import Sequence

from dear.prompts.listwise import THOUGHT_TAG
from dear.prompts.permutations import Identifiers, render_permutation

FINAL = "### Final Reranking:"
"""The line that the prompt `reasoning` asks for."""

_CLOSED = re.compile(r"</(?:think|thinking|thought|reasoning)>", re.IGNORECASE)
_HEADING = re.compile(
    r"^[#*_ \t]*final(?:[ \t]+(?:re-?)?(?:rank|answer|order|list|result)\w*)?[*_ \t]*(?::|$)",
    re.IGNORECASE | re.MULTILINE,
)
_MEMBER = r"\[[ \t]?(?:[0-9]{1,6}|[A-Z])[ \t]?\]"
_CHAIN = re.compile(rf"{_MEMBER}(?:\s*>\s*{_MEMBER})+")
_LISTED = r"#?[0-9]{1,3}(?:(?:\s*,\s*(?:and\s+)?|\s+and\s+|\s*&\s*)#?[0-9]{1,3})*"
_GROUP = re.compile(
    rf"()\[[ \t]?(?:(?:passages?|documents?|docs?)[ \t]*)?({_LISTED})[ \t]?\]", re.IGNORECASE
)
_NAMED = re.compile(
    rf"\b((?:passages?|documents?|docs?)\s+)({_LISTED})(?![\w%]|\.\d)", re.IGNORECASE
)
# a line of ours that quotes a passage, or a quotation in a sentence
_QUOTED = re.compile(r"(^\[[0-9]+\]: \".*\"$|\"[^\"\n]*\")", re.MULTILINE)


def render_answer(
    order: Sequence[int],
    kind: Identifiers = "numbers",
    *,
    thought: str = "",
    heading: bool = False,
) -> str:
    """The thought and the permutation: `split_answer` and `parse_permutation` take them apart.

    heading: the thought as it is and a line `### Final Reranking:`, as the prompt `reasoning` asks
        for it; else the thought in `<think>` tags, as `render_permutation` writes it.
    """
    if not heading:
        return render_permutation(order, kind, thought=thought)
    chain = render_permutation(order, kind)
    return f"{thought}\n\n{FINAL}\n{chain}" if thought else f"{FINAL}\n{chain}"


def split_answer(text: str, kind: Identifiers = "numbers") -> str:
    """The thought: all that comes before the ranking, without tags, cited as `numbered` does. ""
    where there is none.

    Behind the last closed thought, the ranking begins at the last line that is headed `Final …`,
    else at the last chain `[a] > [b] > …`.
    """
    closed = max((m.end() for m in _CLOSED.finditer(text)), default=0)
    found = list(_HEADING.finditer(text, closed)) or list(_CHAIN.finditer(text, closed))
    end = found[-1].start() if found else closed
    return numbered(THOUGHT_TAG.sub("", text[:end]).strip(), kind)


def numbered(thought: str, kind: Identifiers = "numbers") -> str:
    """`thought` with every citation in the one form `[3]` that can be renumbered.

    `[1, 3]`, `[passage 3]`, `passages 1 and 3` become `[1], [3]` and the like, but for what is
    quoted; letters in brackets become numbers where `kind` says, and numbers in brackets are none
    then.
    """
    if kind == "letters":
        text = re.sub(r"\[([0-9]{1,6})\]", r"(\1)", thought)
        return re.sub(r"\[[ \t]?([A-Z])[ \t]?\]", lambda m: f"[{ord(m[1]) - 64}]", text)
    parts = _QUOTED.split(thought)
    parts[::2] = [_NAMED.sub(_cite, _GROUP.sub(_cite, part)) for part in parts[::2]]
    return "".join(parts)


def _cite(match: re.Match[str]) -> str:
    return match[1] + re.sub(r"#?([0-9]+)", r"[\1]", match[2])


def cited(thought: str) -> set[int]:
    """The numbers in brackets, counted from 1."""
    return {int(n) for n in re.findall(r"\[([0-9]{1,6})\]", thought)}


_QUERIES = tuple(
    (re.compile(rf"{pattern}[ \t]*+(\S.*)", re.IGNORECASE | re.MULTILINE), stopped)
    for pattern, stopped in (
        (r"^Search Query:", True),
        (r"^(?:User )?Query:", False),
        (r"relevance to (?:the )?(?:search )?query:", True),
        (r"\bquery:", True),
    )
)
"""What stands before a query in its line; whether a full stop behind it may be the prompt's."""
_LAST = re.compile(r"\n[ \t]*\n|\n(?=(?:Search |User )?Query:|Rank |Think |Please |Received )")


def read_window(text: str) -> tuple[str, list[str], Identifiers] | None:
    """(query, passages, identifiers) of a prompt with its passages inline; None where none are.

    Passages are `[1] …`, `[2] …` or `[A] …`, each at the start of a line and up to the next; the
    last one ends at an empty line; the same identifier behind one is left out; no more are read
    than the prompt says (`20 passages`). The query stands behind `Query:`, `Search Query:` or
    `relevance to the query:`; a full stop that a prompt of ours puts behind it is dropped.
    """
    said = re.search(r"\b([0-9]{1,3}) (?:passages|documents)\b", text)
    most = int(said[1]) if said else 999
    for kind, names in (
        ("numbers", map(str, range(1, 1000))),
        ("letters", map(chr, range(65, 91))),
    ):
        passages = _passages(text, list(names)[:most])
        if len(passages) > 1:
            query = _query(text)
            return None if query is None else (query, passages, kind)  # type: ignore[return-value]
    return None


def _query(text: str) -> str | None:
    """The query of a prompt; None where there is none."""
    for pattern, stopped in _QUERIES:
        if found := pattern.search(text):
            query = found[1].rstrip(" \t")
            if stopped and len(query) > 1:
                query = query.removesuffix(".").rstrip(" \t")
            return query
    return None


def _passages(text: str, names: Sequence[str]) -> list[str]:
    starts: list[re.Match[str]] = []
    at = 0
    for name in names:
        # no chain, such as one that shows the form of the answer
        head = rf"^[ \t]*\[{name}\]:?(?![ \t]*>[ \t]*\[)[ \t]*"
        found = re.compile(head, re.MULTILINE).search(text, at)
        if found is None:
            break
        starts.append(found)
        at = found.end()
    passages = []
    for i, start in enumerate(starts):
        if i + 1 < len(starts):
            end = starts[i + 1].start()
        else:
            last = _LAST.search(text, start.end())
            end = last.start() if last else len(text)
        # some prompts name a passage again behind it
        passage = text[start.end() : end].strip().removesuffix(f"[{names[i]}]")
        passages.append(passage.rstrip())
    return passages
