"""Windows to tokens, cut where they are too long for the model."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

from dear.errors import ConfigError, ContractMismatch
from dear.listwise.encoding import ChainIds
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

    thought: tokens that a thought may take.
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
