"""Windows as prompts that fit the model, and what to feed next, decoding by decoding."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from dear.checkpoints.threads import tokenize
from dear.errors import ConfigError, ContractMismatch
from dear.listwise.decoder import Ask, Program
from dear.listwise.encoding import ChainIds, Ids
from dear.listwise.loading import ListModel
from dear.prompts.listwise import WindowPrompt

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EncodedWindow:
    """ids: of the prompt.  chain: the pieces of its answer.  words: kept of each passage, where
    fewer than the prompt's own."""

    ids: tuple[int, ...]
    chain: ChainIds
    words: int | None = None


class WindowEncoder:
    """Prompts to ids that leave room for the answer.

    A window that is too long is rendered again with fewer words a passage, so that the longest
    ones are cut; that is logged, once. ContractMismatch: more passages than the model was taught
    with. ConfigError: no words would be left, or the prompt is none of the model's own.

    thought: tokens that a thought, or a free text, may take.
    """

    def __init__(self, model: ListModel, thought: int = 0) -> None:
        self.model, self.thought = model, thought
        self.encoder = model.encoder
        self._told = False

    def encode(self, window: WindowPrompt) -> EncodedWindow:
        contract = self.model.contract
        if self.model.taught and len(window.passages) > contract.max_window:
            raise ContractMismatch(
                f"{self.model.name}: it was taught with {contract.max_window} passages at most, "
                f"the window holds {len(window.passages)}"
            )
        chain = self.encoder.chain(window.identifiers)
        whole = len(chain.permutation(range(len(window.identifiers))))
        limit = self.model.max_tokens - whole - self.thought
        ids = self.encoder.prompt(window)
        if len(ids) <= limit:
            return EncodedWindow(tuple(ids), chain)
        return self._cut(window, chain, limit, len(ids))

    def _cut(self, window: WindowPrompt, chain: ChainIds, limit: int, length: int) -> EncodedWindow:
        template = replace(self.model.contract.template, guard=window.guard)
        what = f"{self.model.name}: a window of {len(window.passages)} passages and {length} tokens"
        if template.render(window.query, window.passages).messages != window.messages:
            raise ConfigError(
                f"{what} does not fit {limit}, and only the model's own prompt "
                f"({self.model.contract.prompt!r}) is cut; use it, or a smaller window"
            )

        def made(words: int) -> list[int]:
            shorter = replace(template, max_words=words).render(window.query, window.passages)
            return self.encoder.prompt(shorter)

        words = most_words(lambda n: len(made(n)) <= limit, template.max_words)
        if words is None:
            raise ConfigError(f"{what} does not fit {limit} with one word of each; use fewer")
        if not self._told:
            logger.warning("%s does not fit %d: passages are cut to %d words", what, limit, words)
        self._told = True
        return EncodedWindow(tuple(made(words)), chain, words)


def most_words(fits: Callable[[int], bool], most: int) -> int | None:
    """The largest number of words up to `most` that fits; None where not even one does."""
    low, high = 1, most
    while low <= high:
        middle = (low + high) // 2
        if fits(middle):
            low = middle + 1
        else:
            high = middle - 1
    return high or None


Pick = Callable[[torch.Tensor], int]
"""The next token, of float32 (vocabulary,) logits."""


@dataclass(frozen=True, slots=True)
class Found:
    """ids: the tokens of free text, thoughts included.  order: where one was decided.

    scores: float of each passage, in the window's order (`first` alone).
    tokens: that the answer holds.  cut: it was ended for its length.
    """

    ids: tuple[int, ...] = ()
    order: tuple[int, ...] | None = None
    scores: tuple[float, ...] | None = None
    tokens: int = 0
    cut: bool = False


def first(chain: ChainIds) -> Program[Found]:
    """By the identifiers' logits at the first position of an answer (FIRST, Gangi Reddy et al.
    2024); equal ones in the window's order.

    Identifiers of several tokens are ordered by the probability that constrained decoding would
    begin with them: a step more for each beginning that some of them share.
    """
    scores = [0.0] * len(chain.identifiers)
    feed, taken = chain.open, 0
    for node in _nodes(chain):
        options = _options(chain, node, range(len(scores)))
        logits = yield Ask((*feed, *node), tuple(options), taken)
        single = all(len(ids) == 1 for ids in chain.identifiers)
        logs = logits if single else logits.log_softmax(-1)
        for value, members in zip(logs.tolist(), options.values(), strict=True):
            for i in members:
                scores[i] += value
        feed, taken = (), len(node)
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    return Found(order=tuple(order), scores=tuple(scores))


def constrained(chain: ChainIds, lead: Sequence[int] = ()) -> Program[Found]:
    """Greedy over the identifiers that are left: always a permutation.

    What is no choice (brackets, the rest of an identifier, the last one) is fed with what is.
    lead: tokens before the chain.
    """
    left = list(range(len(chain.identifiers)))
    order: list[int] = []
    feed = [*lead, *chain.open]
    while len(left) > 1:
        prefix: Ids = ()
        members = left
        while len(members) > 1:
            options = _options(chain, prefix, members)
            token = next(iter(options))
            if len(options) > 1:
                logits = yield Ask(tuple(feed), tuple(options))
                token = tuple(options)[int(logits.argmax())]
                feed = []
            members = options[token]
            if len(members) > 1 or len(chain.identifiers[members[0]]) > len(prefix):
                prefix = (*prefix, token)
                feed.append(token)
        chosen = members[0]
        feed += [*chain.identifiers[chosen][len(prefix) :], *chain.between]
        order.append(chosen)
        left.remove(chosen)
    order += left
    return Found(order=tuple(order), tokens=len(lead) + len(chain.permutation(order)))


def thinking(
    tokenizer: Any, stops: frozenset[int], limit: int, pick: Pick, chain: ChainIds
) -> Program[Found]:
    """A thought of at most `limit` tokens, then the constrained chain.

    A thought that does not end is ended here, and `cut` says so.
    """
    opening = _tokens(tokenizer, "<think>\n")
    feed, ids, cut, closed = opening, list[int](), True, False
    while len(ids) < limit:
        token = pick((yield Ask(tuple(feed), None)))
        if token in stops:
            cut = False
            break
        ids.append(token)
        feed = [token]
        if "</think>" in tokenizer.decode(ids[-12:]):
            cut, closed = False, True
            break
    # the token that ended the thought was not fed yet
    pending = feed if closed or cut else ()
    written = tokenizer.decode(ids)
    rest = "" if written.endswith("\n") else "\n"
    lead = [*pending, *_tokens(tokenizer, rest if closed else f"{rest}</think>\n")]
    found = yield from constrained(chain, lead)
    tokens = len(opening) + len(ids) + found.tokens - len(pending)
    return Found(ids=tuple(ids), order=found.order, tokens=tokens, cut=cut)


def text(stops: frozenset[int], limit: int, pick: Pick) -> Program[Found]:
    """What the model writes, until it stops or has written `limit` tokens."""
    ids: list[int] = []
    while len(ids) < limit:
        token = pick((yield Ask(tuple(ids[-1:]), None)))
        if token in stops:
            return Found(ids=tuple(ids), tokens=len(ids) + 1)
        ids.append(token)
    return Found(ids=tuple(ids), tokens=len(ids), cut=True)


def greedy(logits: torch.Tensor) -> int:
    return int(logits.argmax())


def sampled(temperature: float, seed: int) -> Pick:
    """One draw after another from a generator of its own."""
    generator = torch.Generator().manual_seed(seed)

    def pick(logits: torch.Tensor) -> int:
        chances = (logits / temperature).softmax(-1)
        return int(torch.multinomial(chances, 1, generator=generator))

    return pick


def _options(chain: ChainIds, prefix: Ids, members: Sequence[int]) -> dict[int, list[int]]:
    """The tokens that may follow `prefix` → those of `members` that they lead to.

    What ends an identifier is the first token behind it.
    """
    found: dict[int, list[int]] = {}
    for i in members:
        ids = chain.identifiers[i]
        if ids[: len(prefix)] == prefix:
            token = ids[len(prefix)] if len(ids) > len(prefix) else chain.between[0]
            found.setdefault(token, []).append(i)
    return found


def _nodes(chain: ChainIds) -> list[Ids]:
    """The beginnings after which there is a choice, the empty one first."""
    beginnings = {ids[:n] for ids in chain.identifiers for n in range(len(ids) + 1)}
    everybody = range(len(chain.identifiers))
    nodes = [b for b in beginnings if len(_options(chain, b, everybody)) > 1]
    return sorted(nodes, key=lambda ids: (len(ids), ids))


def _tokens(tokenizer: Any, written: str) -> list[int]:
    if not written:
        return []
    return list(tokenize(tokenizer, written, add_special_tokens=False)["input_ids"])
