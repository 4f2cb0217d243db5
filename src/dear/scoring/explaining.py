"""How one score comes about: for whoever has to find out why it is wrong."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from dear.checkpoints.heads import pools_by_mask
from dear.checkpoints.layers import NO_LIMIT
from dear.scoring.encoding import Pair, PairEncoder
from dear.scoring.engines.one_position import reads_one
from dear.scoring.engines.padded import PaddedEngine
from dear.scoring.loading import ScoringModel

if TYPE_CHECKING:
    from dear.scoring.scorer import Scorer


@dataclass(frozen=True, kw_only=True, slots=True)
class Token:
    """One token of a pair. read: False where a limit of the contract cut it off."""

    id: int
    text: str
    read: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Explanation:
    """One score and what it was made from.

    contract: as a dict, with the dtype in force.  engine: a key of ENGINES, or "export".
    text: of the tokens that are read, special ones included.
    tokens: of the whole pair, in order; those that were cut are not `read`.
    position: of the token that the head reads, among the tokens that are read, from 0; None for a
        head that reads all of them, and for exports, which do not say.
    logit: as `Scorer.score` gives it.
    plain: by transformers' own forward pass over this pair alone, without any engine; None for
        exports, which have no weights to do it with.
    """

    model: str
    revision: str
    contract: dict[str, Any]
    engine: str
    text: str
    tokens: tuple[Token, ...]
    position: int | None
    logit: float
    plain: float | None

    @property
    def cut(self) -> int:
        """Tokens that were cut off."""
        return sum(not token.read for token in self.tokens)

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self) | {"tokens": [asdict(token) for token in self.tokens]}


def explain(scorer: Scorer, query: str, passage: str) -> Explanation:
    """How `scorer` scores one pair. Raises what `score` raises."""
    pair = (query, passage)
    (encoded,) = scorer.encoder.encode([pair])
    position = plain = None
    model = scorer.model
    if isinstance(model, ScoringModel):
        plain = float(PaddedEngine(model, scorer.batch_tokens, whole=True).forward([encoded])[0])
        if reads_one(model):
            position = len(encoded) - 1 if pools_by_mask(model.model) else 0
    return Explanation(
        model=scorer.name,
        revision=scorer.revision,
        contract=scorer.contract.to_dict(),
        engine=scorer.engine_name,
        text=model.tokenizer.decode(encoded.ids),
        tokens=_tokens(scorer.encoder, encoded.ids, pair),
        position=position,
        logit=float(scorer.score([pair])[0]),
        plain=plain,
    )


def _tokens(encoder: PairEncoder, read: Sequence[int], pair: Pair) -> tuple[Token, ...]:
    """The pair's tokens without any limit; `read` are those that are left with them."""
    limits = ("max_tokens", "max_query_tokens", "max_passage_tokens")
    none: dict[str, Any] = {n: NO_LIMIT for n in limits if getattr(encoder.contract, n) is not None}
    free = replace(encoder.contract, **none)
    (whole,) = PairEncoder(encoder.tokenizer, free).encode([pair])
    texts = encoder.tokenizer.convert_ids_to_tokens(whole.ids)
    # the limits take tokens out and change none: what matches is what was read
    matcher = difflib.SequenceMatcher(None, list(read), whole.ids, autojunk=False)
    kept = {
        at for block in matcher.get_matching_blocks() for at in range(block.b, block.b + block.size)
    }
    return tuple(
        Token(id=token, text=text, read=at in kept)
        for at, (token, text) in enumerate(zip(whole.ids, texts, strict=True))
    )
