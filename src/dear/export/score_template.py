"""A scoring contract as a Jinja template of one text, as vLLM and sentence-transformers take it.

The messages are two, of the roles `query` and `document`. A template is only given where it makes
the tokens that the contract makes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from dear.checkpoints.contract import ScoringContract
from dear.checkpoints.threads import tokenize
from dear.export.frame import PROBES, Frame, around_one
from dear.scoring.encoding import Encoded, Pair, PairEncoder

SCORE_TEMPLATE = "score_template.jinja"

_PLACES = re.compile(r"(\{query\}|\{passage\})")

_MESSAGE = "(messages | selectattr('role', 'equalto', '{role}') | first)['content']"


def score_template(
    tokenizer: Any, contract: ScoringContract, pairs: Sequence[Pair], *, special_tokens: bool
) -> str | None:
    """The template that makes the contract's tokens of these pairs; None where there is none, as
    where nothing stands between the two texts.

    special_tokens: whether the tokenizer puts its own around the text that is made.
    """
    if not contract.template and not Frame.of(tokenizer, contract).between:
        return None
    tried = [*PROBES, *pairs]
    encoded = PairEncoder(tokenizer, contract).encode(tried)
    whole = [(pair, one) for pair, one in zip(tried, encoded, strict=True) if not one.cut]
    # a tokenizer of SentencePiece's kind marks the beginning of a text only behind a space
    for gap in ("", " "):
        parts = _parts(tokenizer, contract, gap, special_tokens=special_tokens)
        texts = [_filled(parts, *pair) for pair, _ in whole]
        if whole and _same(tokenizer, texts, [one for _, one in whole], special_tokens):
            return _jinja(parts)
    return None


def render(template: str, query: str, passage: str) -> str:
    """The text of a pair, as the programs that take the template make it."""
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    messages = [{"role": "query", "content": query}, {"role": "document", "content": passage}]
    return environment.from_string(template).render(messages=messages)


def _parts(
    tokenizer: Any, contract: ScoringContract, gap: str, *, special_tokens: bool
) -> list[str]:
    """Literals, `{query}` and `{passage}`, in their order."""
    own = around_one(tokenizer) if special_tokens else ([], [])
    if contract.template:
        asked = contract.instruction
        put = contract.instruction_format.replace("{instruction}", asked) if asked else ""
        text = "".join(contract.template).replace("{instruction}", put)
        return _PLACES.split(text.removeprefix(_spelled(tokenizer, own[0])))
    frame = Frame.of(tokenizer, contract)
    before, between, after = (
        [token for token, _ in part] for part in (frame.before, frame.between, frame.after)
    )
    spelled = _spelled(tokenizer, before[len(own[0]) :])
    return [
        spelled + (gap if spelled else "") + frame.query + contract.query_prefix,
        "{query}",
        _spelled(tokenizer, between) + gap + frame.passage,
        "{passage}",
        _spelled(tokenizer, after[: len(after) - len(own[1])]),
    ]


def _spelled(tokenizer: Any, ids: Sequence[int]) -> str:
    return "".join(tokenizer.convert_ids_to_tokens(list(ids)))


def _filled(parts: Sequence[str], query: str, passage: str) -> str:
    texts = {"{query}": query, "{passage}": passage}
    return "".join(texts.get(part, part) for part in parts)


def _same(
    tokenizer: Any, texts: Sequence[str], wanted: Sequence[Encoded], special_tokens: bool
) -> bool:
    """Whether the tokenizer, asked as a server asks it, makes the wanted tokens and types."""
    found = tokenize(tokenizer, list(texts), add_special_tokens=special_tokens)
    types = found.get("token_type_ids") or [[0] * len(ids) for ids in found["input_ids"]]
    return all(
        list(ids) == one.ids and list(kinds) == one.types
        for ids, kinds, one in zip(found["input_ids"], types, wanted, strict=True)
    )


def _jinja(parts: Sequence[str]) -> str:
    """One expression: nothing is left to how a program treats white space around blocks."""
    messages = {
        "{query}": _MESSAGE.format(role="query"),
        "{passage}": _MESSAGE.format(role="document"),
    }
    written = [messages.get(part) or json.dumps(part, ensure_ascii=False) for part in parts if part]
    return "{{ " + " ~ ".join(written) + " }}"
