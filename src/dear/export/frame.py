"""What stands around the two texts of a pair: special tokens and the words of the contract."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dear.checkpoints.contract import ScoringContract
from dear.checkpoints.threads import tokenize
from dear.prompts.pointwise import PAIR_PROMPTS
from dear.scoring.encoding import Pair

Placed = list[tuple[int, int]]
"""Tokens as (id, type)."""


PROBES: tuple[Pair, ...] = (
    ("word", "word"),
    ("a query ", " a passage"),
    ("1", "2"),
    ("it's", "'s"),
    ("line\n", "\nline"),
    ("x.", ".y"),
    ("(né", "漢字)"),
)
"""What may melt into what stands around it: ends that real pairs may happen not to have."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """Of a contract of two texts.

    before, between, after: the special tokens, an end-of-sequence token that the contract appends
        among them.  types: of the query's tokens and of the passage's.
    query, passage: the words before each text.
    """

    before: Placed
    between: Placed
    after: Placed
    types: tuple[int, int]
    query: str
    passage: str

    @classmethod
    def of(cls, tokenizer: Any, contract: ScoringContract) -> Frame:
        """Read off a pair of one-letter texts."""
        probe = tokenize(tokenizer, "a", "b", add_special_tokens=contract.add_special_tokens)
        owners = probe.sequence_ids(0)
        ids = probe["input_ids"]
        types = probe.get("token_type_ids") or [0] * len(ids)
        tokens = list(zip(ids, types, strict=True))
        first = [i for i, owner in enumerate(owners) if owner == 0]
        second = [i for i, owner in enumerate(owners) if owner == 1]
        after = tokens[second[-1] + 1 :]
        eos = tokenizer.eos_token_id
        if contract.append_eos and (not after or after[-1][0] != eos):
            after.append((eos, after[-1][1] if after else types[second[-1]]))
        prompt = PAIR_PROMPTS[contract.prompt]
        return cls(
            before=tokens[: first[0]],
            between=tokens[first[-1] + 1 : second[0]],
            after=after,
            types=(types[first[0]], types[second[0]]),
            query=prompt.query.replace("{query}", ""),
            passage=prompt.passage.replace("{passage}", ""),
        )

    @property
    def special(self) -> int:
        """Special tokens in all."""
        return len(self.before) + len(self.between) + len(self.after)


def whole_length(tokenizer: Any, contract: ScoringContract) -> int:
    """The most tokens that a pair has under a contract."""
    if contract.max_tokens is not None:
        return contract.max_tokens
    texts = (contract.max_query_tokens or 0) + (contract.max_passage_tokens or 0)
    return texts + Frame.of(tokenizer, contract).special


def around_one(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The tokens that a tokenizer puts before and behind one text."""
    probe = tokenize(tokenizer, "a")
    text = [i for i, owner in enumerate(probe.sequence_ids(0)) if owner == 0]
    ids = list(probe["input_ids"])
    return ids[: text[0]], ids[text[-1] + 1 :]
