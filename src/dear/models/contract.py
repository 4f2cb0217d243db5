"""The scoring contract: everything between a pair of texts and its logit that is not a weight.

A checkpoint carries its contract (`scoring_contract.json`), and every label file carries the
contract of the teacher that wrote it. Two scores may be compared only if their contracts agree.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from dear.errors import ConfigError, ContractMismatch, DataError, nearest
from dear.prompts.pointwise import PAIR_PROMPTS

CONTRACT_FILE = "scoring_contract.json"

Truncation = Literal["pair", "separate"]
DType = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoringContract:
    """How one pair becomes one logit.

    prompt:              a key of PAIR_PROMPTS.
    truncation:          "pair" cuts the longer text first until the whole sequence, special
                         tokens included, fits `max_tokens`, as `tokenizer(a, b,
                         truncation=True)` does. "separate" cuts each text to its own limit, so
                         that neither eats the other.
    max_tokens:          "pair" only: tokens of the whole sequence.
    max_query_tokens:    "separate" only: tokens of the query's text, template included.
    max_passage_tokens:  "separate" only: the same for the passage.
    add_special_tokens:  the tokenizer's own ([CLS], <s>, …).
    append_eos:          an end-of-sequence token after the passage (never cut), for the pooled
                         position of decoders to stand on.
    pooling:             "mask": the last token that the attention mask shows (decoders);
                         "model": as the encoder's own head pools. Never "by pad id".
    padding_side:        where a batch is filled up. Scores do not depend on it.
    dtype:               of the weights while scoring; the head is float32 in any case. "auto" in
                         a checkpoint means that the machine decides; a loaded model's contract
                         holds what was decided.
    """

    name: str = "custom"
    prompt: str = "dear"
    truncation: Truncation = "pair"
    max_tokens: int | None = None
    max_query_tokens: int | None = None
    max_passage_tokens: int | None = None
    add_special_tokens: bool = True
    append_eos: bool = False
    pooling: Literal["mask", "model"] = "mask"
    padding_side: Literal["right", "left"] = "right"
    dtype: DType = "auto"

    def __post_init__(self) -> None:
        if self.prompt not in PAIR_PROMPTS:
            raise ConfigError(
                f"contract: no prompt {self.prompt!r}{nearest(self.prompt, PAIR_PROMPTS)}"
            )
        needed = {
            "pair": ("max_tokens",),
            "separate": ("max_query_tokens", "max_passage_tokens"),
        }.get(self.truncation)
        if needed is None:
            raise ConfigError(f"contract: truncation {self.truncation!r} is not pair or separate")
        for field in ("max_tokens", "max_query_tokens", "max_passage_tokens"):
            value = getattr(self, field)
            if field in needed and (value is None or value < 1):
                raise ConfigError(f"contract: truncation {self.truncation!r} needs {field} >= 1")
            if field not in needed and value is not None:
                raise ConfigError(f"contract: {field} means nothing under {self.truncation!r}")

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits over every field but the name."""
        fields_only = {k: v for k, v in self.to_dict().items() if k != "name"}
        return hashlib.sha256(json.dumps(fields_only, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def longest(self) -> int:
        """An upper bound on a sequence's tokens (special tokens: at most 8)."""
        if self.max_tokens is not None:
            return self.max_tokens
        return (self.max_query_tokens or 0) + (self.max_passage_tokens or 0) + 8

    def to_dict(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ScoringContract:
        """ConfigError names an unknown key and the nearest known one."""
        known = {field.name for field in fields(cls)}
        for key in values:
            if key not in known:
                raise ConfigError(f"contract: unknown key {key!r}{nearest(key, known)}")
        return cls(**values)

    def differences(self, other: ScoringContract, *, ignore: tuple[str, ...] = ()) -> list[str]:
        """`field: mine, not theirs` for every field that differs; names do not count."""
        mine, theirs = self.to_dict(), other.to_dict()
        return [
            f"{key}: {mine[key]!r}, not {theirs[key]!r}"
            for key in mine
            if key != "name" and key not in ignore and mine[key] != theirs[key]
        ]

    def require(self, other: ScoringContract, *, what: str, ignore: tuple[str, ...] = ()) -> None:
        """ContractMismatch that names the difference unless `other` agrees with this one."""
        found = self.differences(other, ignore=ignore)
        if found:
            raise ContractMismatch(f"{what}: the scoring contracts differ: {'; '.join(found)}")

    def with_dtype(self, dtype: DType) -> ScoringContract:
        return replace(self, dtype=dtype)

    def save(self, folder: Path) -> None:
        path = folder / CONTRACT_FILE
        path.write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> ScoringContract | None:
        """The contract stored in a checkpoint's folder; None where there is none."""
        path = folder / CONTRACT_FILE
        if not path.is_file():
            return None
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise DataError.at(path, None, f"not JSON: {error}") from None
        if not isinstance(values, dict):
            raise DataError.at(path, None, "not a JSON object")
        return cls.from_dict(values)


CARD = ScoringContract(name="card", truncation="pair", max_tokens=512)
"""tokenizer(f"query: {query}", f"document: {document}", truncation=True, max_length=512), as the
DeAR model cards show it: the contract of a checkpoint that brings none."""

DEAR = ScoringContract(
    name="dear", truncation="separate", max_query_tokens=32, max_passage_tokens=196
)
"""What this project trains: 32 query tokens and 196 passage tokens, each by its own limit."""

CONTRACTS: dict[str, ScoringContract] = {"card": CARD, "dear": DEAR}
