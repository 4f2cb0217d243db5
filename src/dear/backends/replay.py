"""Recorded answers instead of a model: no weights, no network, the same every time."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from dear.backends.backend import Completion, OnAnswer
from dear.data.formats.lines import Source, source_name
from dear.data.formats.rows import Row, json_rows
from dear.errors import BackendError, excerpt
from dear.prompts.listwise import WindowPrompt, clean
from dear.prompts.permutations import renumber

CUT_CHARACTERS = 40
"""A recorded passage may be the beginning of ours, or ours of it, from so many characters on."""


@dataclass(frozen=True, slots=True)
class _Recorded:
    passages: tuple[str, ...]
    completion: Completion


class Replay:
    """Answers from a file that rank_llm wrote, JSON or JSON Lines, in either of two layouts:

    - a window a row: `{"qid", "query", "prompt", "response"}`, `query` a string;
    - a query a row: `{"query": {"text", "qid"}, "invocations_history": [{"prompt", "response"}]}`.

    `prompt` is a string or a list of `{"role", "content"}`; token counts are read where they are.
    A window is found by its query (by `qid`, or by text where the row has none) and by its
    passages, whatever words stand around them. Where they stood in another order, as candidates
    with equal scores may, the answer's identifiers are renumbered. Texts are equal if their ASCII
    letters and digits are, because rank_llm mends encodings, entities and ligatures; long ones
    may be cut. Of windows that were recorded twice the first answers.

    DataError: what `json_rows` names, a prompt in which no passages are found.
    """

    def __init__(self, path: Source) -> None:
        self._file = source_name(path)
        self._windows: dict[str, list[_Recorded]] = {}
        for row in json_rows(path):
            query = _query_key(row)
            for one in _answers(row):
                prompt = _prompt_text(one)
                passages = passages_in(prompt)
                if not passages:
                    raise one.error(f"no passages [1], [2], … in the prompt {excerpt(prompt)}")
                recorded = _Recorded(tuple(map(text_key, passages)), _completion(one))
                self._windows.setdefault(query, []).append(recorded)

    @property
    def name(self) -> str:
        return f"replay:{self._file}"

    def generate(
        self, prompts: Sequence[WindowPrompt], on_answer: OnAnswer | None = None
    ) -> list[Completion]:
        """The recorded answers. BackendError names a query and window that was not recorded."""
        answers: list[Completion] = []
        missing: BackendError | None = None
        for i, prompt in enumerate(prompts):
            try:
                answers.append(self._answer(prompt))
            except BackendError as error:
                missing = missing or error
            else:
                if on_answer is not None:
                    on_answer(i, answers[-1])
        if missing is not None:
            raise missing
        return answers

    def _answer(self, prompt: WindowPrompt) -> Completion:
        by_text = f"text {text_key(prompt.query.text)}"
        windows = self._windows.get(f"id {prompt.query.id}") or self._windows.get(by_text) or []
        asked = tuple(text_key(clean(p.full_text)) for p in prompt.passages)
        for window in windows:
            if len(window.passages) == len(asked) and all(map(_same, window.passages, asked)):
                return window.completion
        for window in windows:
            places = _places(window.passages, asked)
            if places is not None:
                return replace(window.completion, text=renumber(window.completion.text, places))
        first, last = prompt.passages[0].id, prompt.passages[-1].id
        raise BackendError(
            f"{self._file}: query {prompt.query.id!r}: no answer was recorded for the window of "
            f"{len(asked)} passages from {first!r} to {last!r} ({len(windows)} others were)"
        )


def passages_in(prompt: str) -> list[str]:
    """The texts behind [1], [2], … of a RankGPT or RankVicuna prompt; empty where there are none.

    How many there are is what the prompt says (`20 passages`).
    """
    said = re.search(r"([0-9]{1,4}) passages", prompt)
    texts: list[str] = []
    at = 0
    for i in range(1, int(said[1]) + 1 if said else 1):
        head = f"[{i}] "
        start = prompt.find(head, at)
        # a line of its own, or a turn that the assistant confirms
        end = re.compile(
            rf"\n\[{i + 1}\] |\n+Search Query:|\s*(?:</s>)?\s*ASSISTANT: Received passage \[{i}\]"
            rf"|\nReceived passage \[{i}\]"
        ).search(prompt, start + 1)
        if start < 0 or end is None:
            return []
        texts.append(prompt[start + len(head) : end.start()])
        at = end.start()
    return texts


def text_key(text: str) -> str:
    """ASCII letters and digits, in lower case; of a text that has none, all that is no space."""
    plain = html.unescape(text)
    for broken, letters in _LIGATURES.items():
        plain = plain.replace(broken, letters)
    return re.sub(r"[^a-z0-9]", "", plain.lower()) or "".join(text.split())


_LIGATURES = {
    form: letters
    for sign, letters in {"ﬀ": "ff", "ﬁ": "fi", "ﬂ": "fl", "ﬃ": "ffi", "ﬄ": "ffl"}.items()
    # the sign, and its UTF-8 bytes as they look when they are read as another encoding
    for form in (sign, *(sign.encode().decode(e, "ignore") for e in ("latin-1", "cp1252")))
}


def _same(recorded: str, asked: str) -> bool:
    short, long = sorted((recorded, asked), key=len)
    return short == long or (len(short) >= CUT_CHARACTERS and long.startswith(short))


def _places(recorded: Sequence[str], asked: Sequence[str]) -> list[int] | None:
    """For each recorded passage its place among those asked; None if they are not the same."""
    if len(recorded) != len(asked):
        return None
    free, places = list(range(len(asked))), []
    for passage in recorded:
        place = next((i for i in free if _same(passage, asked[i])), None)
        if place is None:
            return None
        free.remove(place)
        places.append(place)
    return places


def _query_key(row: Row) -> str:
    value = row.need("query")[1]
    inner = row.child(value, "query") if isinstance(value, dict) else None
    if inner is None:
        return f"id {row.id('qid')}" if row.find("qid") else f"text {text_key(row.text('query'))}"
    return f"id {inner.id('qid')}" if inner.find("qid") else f"text {text_key(inner.text('text'))}"


def _answers(row: Row) -> list[Row]:
    if row.find("invocations_history"):
        return row.children("invocations_history")
    return [row]


def _prompt_text(row: Row) -> str:
    if isinstance(row.need("prompt")[1], list):
        return "\n".join(turn.text("content") for turn in row.children("prompt"))
    return row.text("prompt")


def _completion(row: Row) -> Completion:
    return Completion(
        text=row.text("response"),
        prompt_tokens=_tokens(row, "input_token_count"),
        completion_tokens=_tokens(row, "output_token_count"),
    )


def _tokens(row: Row, name: str) -> int | None:
    number = row.number(name)
    return None if number is None else int(number)


def open_replay(_kind: str, where: str) -> Replay:
    """Answers from the file `where`."""
    return Replay(where)
