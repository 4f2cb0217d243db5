"""Pairs of texts to token ids, under a contract."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from dear.checkpoints.contract import ScoringContract
from dear.checkpoints.threads import tokenize
from dear.errors import ConfigError
from dear.prompts.pointwise import PAIR_PROMPTS
from dear.scoring.template import TextTemplate

Pair = tuple[str, str]
"""(query, passage), both as the user wrote them."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One sequence. types: token type ids, all 0 for models that have none.  cut: whether the
    limits left out a part of the passage, under truncation "pair" of either text."""

    ids: list[int]
    types: list[int]
    cut: bool = False

    def __len__(self) -> int:
        return len(self.ids)


def encode_texts(tokenizer: Any, texts: Sequence[str], max_tokens: int) -> list[Encoded]:
    """One Encoded a text alone; one pad token for a text of which nothing is left."""
    if not texts:
        return []
    batch = tokenize(
        tokenizer,
        list(texts),
        truncation=True,
        max_length=max_tokens,
        return_attention_mask=False,
    )
    rows = [list(ids) or [tokenizer.pad_token_id] for ids in batch["input_ids"]]
    cuts = _cuts(batch, max_tokens)
    return [Encoded(ids, [0] * len(ids), cut) for ids, cut in zip(rows, cuts, strict=True)]


def _cuts(batch: Any, limit: int) -> list[bool]:
    """Which rows of a tokenizer's batch are shorter than their texts; of a tokenizer in Python,
    which of them are as long as they may be."""
    if batch.encodings is None:
        return [len(ids) >= limit for ids in batch["input_ids"]]
    return [bool(one.overflowing) for one in batch.encodings]


@dataclass(frozen=True, slots=True)
class _Frame:
    """The special tokens around a pair, with their types, as the tokenizer places them."""

    before: Encoded
    between: Encoded
    after: Encoded
    types: tuple[int, int]


class PairEncoder:
    """Renders and tokenises pairs exactly as `contract` says.

    A text that spells a special token, such as `[SEP]` or `<|im_end|>`, is read letter by letter:
    only the contract and the tokenizer place control tokens, so that no passage can end itself.
    """

    def __init__(self, tokenizer: Any, contract: ScoringContract) -> None:
        self.tokenizer = tokenizer
        self.contract = contract
        self._template = None
        if contract.template:
            self._template = TextTemplate(tokenizer, contract.template)
        else:
            self.prompt = PAIR_PROMPTS[contract.prompt]
        if contract.append_eos and tokenizer.eos_token_id is None:
            raise ConfigError("contract: append_eos, but the tokenizer has no eos token")
        self._frame = self._read_frame() if contract.truncation == "separate" else None
        special = contract.add_special_tokens * tokenizer.num_special_tokens_to_add(pair=True)
        if self._template is not None:
            special = len(self._template.encode([self._fields("", "")])[0])
        if contract.max_tokens is not None and contract.max_tokens <= special + contract.append_eos:
            raise ConfigError(
                f"contract: max_tokens {contract.max_tokens} leaves no room beside the "
                f"{special + contract.append_eos} special tokens"
            )

    def encode(self, pairs: Sequence[Pair]) -> list[Encoded]:
        """One Encoded a pair, in the order given."""
        if not pairs:
            return []
        if self._template is not None:
            limit = self.contract.max_tokens
            rows = self._template.encode_cut([self._fields(*pair) for pair in pairs], limit)
            return [Encoded(ids, [0] * len(ids), cut) for ids, cut in rows]
        prefix = self.contract.query_prefix
        rendered = [self.prompt.render(prefix + query, passage) for query, passage in pairs]
        if self._frame is None:
            return self._encode_pairs(rendered)
        return self._encode_separately(rendered, self._frame)

    def _fields(self, query: str, passage: str) -> dict[str, str]:
        """What a template's placeholders stand for."""
        asked = self.contract.instruction
        put = self.contract.instruction_format.replace("{instruction}", asked) if asked else ""
        return {"instruction": put, "query": query, "passage": passage}

    def _encode_pairs(self, rendered: list[tuple[str, str]]) -> list[Encoded]:
        limit = (self.contract.max_tokens or 0) - self.contract.append_eos
        batch = tokenize(
            self.tokenizer,
            [query for query, _ in rendered],
            [passage for _, passage in rendered],
            truncation="longest_first",
            max_length=limit,
            add_special_tokens=self.contract.add_special_tokens,
            split_special_tokens=True,
            return_attention_mask=False,
            verbose=False,
        )
        types = batch.get("token_type_ids") or [[0] * len(ids) for ids in batch["input_ids"]]
        return [
            self._finish(list(ids), list(kinds), cut)
            for ids, kinds, cut in zip(batch["input_ids"], types, _cuts(batch, limit), strict=True)
        ]

    def _encode_separately(self, rendered: list[tuple[str, str]], frame: _Frame) -> list[Encoded]:
        queries = self._pieces((q for q, _ in rendered), self.contract.max_query_tokens)
        passages = self._pieces((p for _, p in rendered), self.contract.max_passage_tokens)
        out = []
        for query, passage in rendered:
            (a, _), (b, cut) = queries[query], passages[passage]
            ids = [*frame.before.ids, *a, *frame.between.ids, *b, *frame.after.ids]
            types = [
                *frame.before.types,
                *[frame.types[0]] * len(a),
                *frame.between.types,
                *[frame.types[1]] * len(b),
                *frame.after.types,
            ]
            out.append(self._finish(ids, types, cut))
        return out

    def _pieces(self, texts: Iterable[str], limit: int | None) -> dict[str, tuple[list[int], bool]]:
        """Token ids of each different text, cut on the right, and whether they were; every text is
        read once."""
        unique = list(dict.fromkeys(texts))
        # cut here: the tokenizer would cut on its own truncation_side
        batch = tokenize(
            self.tokenizer,
            unique,
            add_special_tokens=False,
            split_special_tokens=True,
            return_attention_mask=False,
            verbose=False,
        )
        return {
            text: (ids[:limit], limit is not None and len(ids) > limit)
            for text, ids in zip(unique, batch["input_ids"], strict=True)
        }

    def _finish(self, ids: list[int], types: list[int], cut: bool) -> Encoded:
        if self.contract.append_eos and (not ids or ids[-1] != self.tokenizer.eos_token_id):
            ids.append(self.tokenizer.eos_token_id)
            types.append(types[-1] if types else 0)
        if not ids:
            # a sequence needs one token for its pooled position
            ids, types = [self.tokenizer.pad_token_id], [0]
        return Encoded(ids, types, cut)

    def _read_frame(self) -> _Frame:
        """Where this tokenizer puts its special tokens, read off a pair of one-letter texts."""
        if not self.contract.add_special_tokens:
            empty = Encoded([], [])
            return _Frame(empty, empty, empty, (0, 0))
        probe = tokenize(self.tokenizer, "a", "b", add_special_tokens=True)
        owners = probe.sequence_ids(0)
        types = probe.get("token_type_ids") or [0] * len(owners)
        first = [i for i, owner in enumerate(owners) if owner == 0]
        second = [i for i, owner in enumerate(owners) if owner == 1]
        if not first or not second:
            raise ConfigError("the tokenizer makes no tokens of plain letters; is it whole?")

        def span(start: int, stop: int) -> Encoded:
            return Encoded(list(probe["input_ids"][start:stop]), list(types[start:stop]))

        return _Frame(
            span(0, first[0]),
            span(first[-1] + 1, second[0]),
            span(second[-1] + 1, len(owners)),
            (types[first[0]], types[second[0]]),
        )
