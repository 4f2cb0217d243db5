"""Windows and permutations as tokens: the same for training, generation and single-pass reading."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dear.checkpoints.threads import tokenize
from dear.checkpoints.tokenizer import render_chat
from dear.errors import ConfigError
from dear.prompts.listwise import WindowPrompt
from dear.prompts.permutations import renumber

Ids = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ChainIds:
    """The tokens that `[A] > [B] > [C]` is made of: open, A, between, B, between, C, close, end.

    identifiers: the tokens of each identifier; a letter is one token to most tokenizers, a number
        may be several.
    """

    open: Ids
    between: Ids
    close: Ids
    end: Ids
    identifiers: tuple[Ids, ...]

    def permutation(self, order: Sequence[int]) -> Ids:
        """The whole chain, its end included."""
        ids = [*self.open]
        for place, i in enumerate(order):
            ids += [*(self.between if place else ()), *self.identifiers[i]]
        return (*ids, *self.close, *self.end)


class ListEncoder:
    """Prompts and answers to token ids.

    Prompts go through the tokenizer's chat template, unless they are made of pieces; without one,
    the turns stand below each other, behind the tokenizer's own special tokens. An answer's chain
    is put together from its pieces, so that every permutation of N passages differs in the
    identifiers alone. Only the chat template and the tokenizer write control tokens: what spells
    one inside a turn is broken up first (`plain`).
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._chains: dict[tuple[str, ...], ChainIds] = {}
        self._control = _control_tokens(tokenizer)
        if tokenizer.eos_token_id is None:
            raise ConfigError("the tokenizer has no end-of-text token: no answer would ever end")

    def prompt(self, window: WindowPrompt) -> list[int]:
        """What the model reads before it answers."""
        if window.pieces is not None:
            first, *others = map(self.plain, window.pieces)
            ids = self.opening(first)
            for number, piece in enumerate(others):
                # a passage, its name, a passage, …
                behind = number % 2 == 1 or number == len(others) - 1
                ids += [*self._piece(piece), *(() if behind else (self.tokenizer.eos_token_id,))]
            return ids
        if self.tokenizer.chat_template:
            turns = [{"role": role, "content": self.plain(text)} for role, text in window.messages]
            text = render_chat(self.tokenizer, turns, add_generation_prompt=True)
            # the template wrote the special tokens
            return self.ids(text)
        text = "\n\n".join(self.plain(text) for _, text in window.messages) + "\n"
        return self.opening(text)

    def ends(self, window: WindowPrompt, ids: Sequence[int]) -> tuple[int, ...]:
        """Where in `ids`, the prompt of this window, each passage has been read: the places of the
        end-of-text tokens behind them; none where the prompt has no pieces."""
        if window.pieces is None:
            return ()
        found = [i for i, token in enumerate(ids) if token == self.tokenizer.eos_token_id]
        # the tokenizer may begin with one
        return tuple(found[len(found) - len(window.passages) :])

    def plain(self, text: str) -> str:
        """`text` with a space inside whatever the tokenizer would read as a control token."""
        if self._control is None:
            return text
        while (broken := self._control.sub(lambda m: f"{m[0][0]} {m[0][1:]}", text)) != text:
            text = broken
        return text

    def opening(self, text: str) -> list[int]:
        """Text that begins a prompt without turns: the tokenizer's own special tokens first."""
        return self._without_end(list(tokenize(self.tokenizer, text)["input_ids"]))

    def answer(
        self, identifiers: tuple[str, ...], order: Sequence[int], *, thought: str = ""
    ) -> list[int]:
        """What it should answer. thought: names passages by numbers, as ListExample's does."""
        chain = self.chain(identifiers).permutation(order)
        return [*self.thought(identifiers, thought), *chain]

    def thought(self, identifiers: tuple[str, ...], thought: str) -> list[int]:
        if not thought:
            return []
        kind = "numbers" if identifiers[0].isdigit() else "letters"
        named = renumber(thought, range(len(identifiers)), kind)  # type: ignore[arg-type]
        text = f"<think>\n{named}\n</think>\n"
        return self.ids(text)

    def chain(self, identifiers: tuple[str, ...]) -> ChainIds:
        """The pieces for these identifiers, as the tokenizer cuts a whole chain of them; piece by
        piece where a token of its crosses a bracket. ConfigError: two identifiers are one."""
        if identifiers in self._chains:
            return self._chains[identifiers]
        end = (self.tokenizer.eos_token_id,)
        found = [self._pieces(name) for name in identifiers]
        opens, names, betweens, closes = zip(*found, strict=True)
        if len({*opens}) > 1 or len({*betweens}) > 1 or len({*closes}) > 1 or () in names:
            opens, betweens, closes = ((self._piece(x),) for x in ("[", "] > [", "]"))
            names = tuple(map(self._piece, identifiers))
        if len(set(names)) != len(names):
            raise ConfigError("the tokenizer reads two identifiers as one; use other identifiers")
        made = ChainIds(opens[0], betweens[0], closes[0], end, names)
        return self._chains.setdefault(identifiers, made)

    def _pieces(self, name: str) -> tuple[Ids, Ids, Ids, Ids]:
        """(open, identifier, between, close) in `[name] > [name]`; no identifier where a token
        holds more or less than it."""
        text = f"[{name}] > [{name}]"
        encoded = tokenize(
            self.tokenizer, text, add_special_tokens=False, return_offsets_mapping=True
        )
        pieces: dict[str, list[int]] = {part: [] for part in ("open", "a", "mid", "b", "close")}
        spans = {"open": (0, 1), "a": (1, 1 + len(name))}
        second = len(text) - 1 - len(name)
        spans |= {"mid": (1 + len(name), second), "b": (second, len(text) - 1)}
        spans["close"] = (len(text) - 1, len(text))
        for token, (start, stop) in zip(
            encoded["input_ids"], encoded["offset_mapping"], strict=True
        ):
            inside = [part for part, (a, b) in spans.items() if a <= start and stop <= b]
            if len(inside) != 1:
                return (), (), (), ()
            pieces[inside[0]].append(token)
        same = pieces["a"] == pieces["b"]
        return (
            tuple(pieces["open"]),
            tuple(pieces["a"]) if same else (),
            tuple(pieces["mid"]),
            tuple(pieces["close"]),
        )

    def _piece(self, text: str) -> Ids:
        return tuple(self.ids(text))

    def ids(self, text: str) -> list[int]:
        """The tokens of a piece of a prompt or an answer: the tokenizer adds none of its own."""
        return list(tokenize(self.tokenizer, text, add_special_tokens=False)["input_ids"])

    def _without_end(self, ids: list[int]) -> list[int]:
        # some tokenizers end every text with </s>
        return ids[:-1] if ids and ids[-1] == self.tokenizer.eos_token_id else ids


def _control_tokens(tokenizer: Any) -> re.Pattern[str] | None:
    """The special tokens' spellings, and those of other added tokens that the chat template
    writes, such as `</think>`. Single letters are left alone: there is nothing to break."""
    template = str(tokenizer.chat_template or "")
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    found = {str(t) for t in added if t.special or str(t).strip() in template}
    found |= set(tokenizer.all_special_tokens)
    words = sorted((t for t in found if len(t.strip()) > 1), key=lambda t: (-len(t), t))
    return re.compile("|".join(map(re.escape, words))) if words else None
