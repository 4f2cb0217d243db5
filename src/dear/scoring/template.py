"""A text with places for a query and a passage, as tokens.

Only the template places control tokens. A text that spells one, such as `<|im_end|>`, is read
letter by letter, so that no passage can end itself.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer

from dear.checkpoints.threads import tokenize

QUERY_SHARE = 0.75
"""Of the room that a template leaves, the part that a query may fill where both are too long."""

_Spans = dict[str, tuple[int, int]]
"""Field → where it stands in a text, in characters."""

_PLACES = re.compile(r"\{(instruction|query|passage)\}")


@dataclass(frozen=True, slots=True)
class _Piece:
    """One run of text between control tokens. opens: nothing stands before it.
    parts: literals and names of fields in turns, a literal first and last."""

    opens: bool
    parts: tuple[str, ...]

    def render(self, fields: Mapping[str, str]) -> tuple[str, _Spans]:
        """(text, field → where it stands in the text)."""
        text = self.parts[0]
        spans: _Spans = {}
        for name, literal in zip(self.parts[1::2], self.parts[2::2], strict=True):
            spans[name] = (len(text), len(text) + len(fields[name]))
            text += fields[name] + literal
        return text, spans


@dataclass(slots=True)
class _Tokens:
    """Of one text of one pair. where: field → (first token, the one behind the last)."""

    ids: list[int]
    where: dict[str, tuple[int, int]]

    def cut(self, name: str, excess: int) -> int:
        """Take up to `excess` tokens off the end of a field; how many were taken."""
        if name not in self.where:
            return 0
        first, stop = self.where[name]
        taken = min(excess, stop - first)
        del self.ids[stop - taken : stop]
        self.where = {
            key: (a - taken * (a >= stop), b - taken * (b >= stop))
            for key, (a, b) in self.where.items()
        }
        return taken


class TextTemplate:
    """Segments of a template, tokenised one by one and laid end to end.

    segments: with {instruction}, {query} and {passage} in place. Every string in them that is an
        added token of the tokenizer is that token.
    """

    def __init__(self, tokenizer: Any, segments: Sequence[str]) -> None:
        added = {str(token.content): i for i, token in tokenizer.added_tokens_decoder.items()}
        controls = [c for c in added if c.strip() and any(c in s for s in segments)]
        # the longest first: <|im_start|> before <|im
        split = "|".join(re.escape(c) for c in sorted(controls, key=len, reverse=True))
        self._pieces: list[_Piece | int] = []
        for segment in segments:
            opens = True
            for run in re.split(f"({split})", segment) if split else [segment]:
                if run in added and run in controls:
                    self._pieces.append(added[run])
                    opens = False
                elif run:
                    self._pieces.append(_Piece(opens, tuple(_PLACES.split(run))))
                    opens = False
        self._tokenizer = _spelling(tokenizer, controls)
        self._inner = _without_first_mark(self._tokenizer)

    def encode(
        self,
        rows: Sequence[Mapping[str, str]],
        limit: int | None = None,
        limits: Mapping[str, int] | None = None,
    ) -> list[list[int]]:
        """Token ids of each row of fields.

        limit: tokens in all. The passage's end is cut first, the query's where it alone takes
            more than QUERY_SHARE of the room.
        limits: field → tokens of it, cut at its end.
        """
        return [ids for ids, _ in self.encode_cut(rows, limit, limits)]

    def encode_cut(
        self,
        rows: Sequence[Mapping[str, str]],
        limit: int | None = None,
        limits: Mapping[str, int] | None = None,
    ) -> list[tuple[list[int], bool]]:
        """The same, and whether something was cut."""
        limits = limits or {}
        out = self._cut_rows(rows, None, {})
        # where tokens stand in a text is asked for only where it may count: it takes time
        long = [
            i
            for i, ((ids, _), fields) in enumerate(zip(out, rows, strict=True))
            if (limit is not None and len(ids) > limit)
            or any(_may_exceed(fields[name], most) for name, most in limits.items())
        ]
        for i, row in zip(
            long, self._cut_rows([rows[i] for i in long], limit, limits), strict=True
        ):
            out[i] = row
        return out

    def _cut_rows(
        self, rows: Sequence[Mapping[str, str]], limit: int | None, limits: Mapping[str, int]
    ) -> list[tuple[list[int], bool]]:
        texts: dict[tuple[str, bool], int] = {}
        laid: list[list[tuple[int, _Spans] | int]] = []
        for fields in rows:
            row: list[tuple[int, _Spans] | int] = []
            for piece in self._pieces:
                if isinstance(piece, int):
                    row.append(piece)
                    continue
                text, where = piece.render(fields)
                row.append((texts.setdefault((text, piece.opens), len(texts)), where))
            laid.append(row)
        read = self._read(list(texts), offsets=limit is not None or bool(limits))
        out = []
        for row in laid:
            parts = [one if isinstance(one, int) else _placed(read[one[0]], one[1]) for one in row]
            cut = _shorten(parts, limit, limits)
            ids = [i for one in parts for i in ([one] if isinstance(one, int) else one.ids)]
            out.append((ids, cut))
        return out

    def _read(
        self, texts: Sequence[tuple[str, bool]], *, offsets: bool
    ) -> list[tuple[list[int], list[tuple[int, int]]]]:
        """(ids, offsets) of each text."""
        found: list[tuple[list[int], list[tuple[int, int]]]] = [([], [])] * len(texts)
        for opens, tokenizer in ((True, self._tokenizer), (False, self._inner)):
            mine = [i for i, (_, first) in enumerate(texts) if first == opens]
            if not mine:
                continue
            batch = tokenize(
                tokenizer,
                [texts[i][0] for i in mine],
                add_special_tokens=False,
                split_special_tokens=True,
                return_attention_mask=False,
                return_offsets_mapping=offsets,
                verbose=False,
            )
            spans = batch["offset_mapping"] if offsets else [[]] * len(mine)
            for i, ids, where in zip(mine, batch["input_ids"], spans, strict=True):
                found[i] = (ids, where)
        return found


def _may_exceed(text: str, tokens: int) -> bool:
    """False where a text can have no more tokens than that: a token has a byte or more."""
    return len(text.encode("utf-8", "surrogatepass")) + 1 > tokens


def _placed(read: tuple[list[int], list[tuple[int, int]]], spans: _Spans) -> _Tokens:
    """Which tokens a field may lose: those that reach into it and not beyond its end."""
    ids, offsets = read
    where = {}
    for name, (start, stop) in spans.items():
        inside = [i for i, (a, b) in enumerate(offsets) if b > start and b <= stop and b > a]
        if inside:
            where[name] = (inside[0], inside[-1] + 1)
    return _Tokens(list(ids), where)


def _shorten(parts: Sequence[_Tokens | int], limit: int | None, limits: Mapping[str, int]) -> bool:
    """True if tokens were taken off."""
    texts = [part for part in parts if isinstance(part, _Tokens)]

    def size(name: str) -> int:
        return sum(b - a for t in texts for n, (a, b) in t.where.items() if n == name)

    def cut(name: str, excess: int) -> int:
        left = excess
        for text in reversed(texts):
            if left > 0:
                left -= text.cut(name, left)
        return excess - max(left, 0)

    taken = sum(cut(name, size(name) - most) for name, most in limits.items() if size(name) > most)
    total = sum(1 if isinstance(part, int) else len(part.ids) for part in parts)
    if limit is None or total <= limit:
        return taken > 0
    excess = total - limit
    room = limit - (total - size("query") - size("passage"))
    most = max(int(QUERY_SHARE * room), room - size("passage"))
    excess -= cut("query", max(0, min(size("query") - most, excess)))
    excess -= cut("passage", excess)
    cut("query", excess)
    return True


def _spelling(tokenizer: Any, controls: Sequence[str]) -> Any:
    """A tokenizer that reads every control token of a text letter by letter.

    Tokenizers do so with special tokens when they are asked to; a template may have others, such
    as <think>.
    """
    special = {str(t.content) for t in tokenizer.added_tokens_decoder.values() if t.special}
    others = set(controls) - special
    if not others:
        return tokenizer
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    for token in state["added_tokens"]:
        token["special"] = token["special"] or token["content"] in others
    return _with_state(tokenizer, state)


def _without_first_mark(tokenizer: Any) -> Any:
    """A tokenizer for text behind a control token.

    SentencePiece's kind puts a mark of a word before the first text of a sequence alone.
    """
    step = tokenizer.backend_tokenizer.pre_tokenizer
    # the step alone first: a whole tokenizer takes a second to write and read
    if step is None or not _forbid_mark(json.loads(step.__getstate__())):
        return tokenizer
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    _forbid_mark(state["pre_tokenizer"])
    return _with_state(tokenizer, state)


def _forbid_mark(step: Any) -> bool:
    if not isinstance(step, dict):
        return False
    if step.get("prepend_scheme") == "first":
        step["prepend_scheme"] = "never"
        return True
    inner = [_forbid_mark(one) for one in step.get("pretokenizers") or ()]  # all of them
    return any(inner)


def _with_state(tokenizer: Any, state: dict[str, Any]) -> Any:
    other = copy.copy(tokenizer)
    other._tokenizer = Tokenizer.from_str(json.dumps(state))
    return other
