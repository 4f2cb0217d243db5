"""Windows to orders: four ways to read a causal model."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from dear.checkpoints.contract import ListwiseContract
from dear.errors import ConfigError, nearest
from dear.listwise.decoder import Decoder, Program
from dear.listwise.in_context import InContext
from dear.listwise.loading import HeadWeights, ListModel
from dear.listwise.programs import (
    EncodedWindow,
    Found,
    Pick,
    WindowEncoder,
    constrained,
    first,
    greedy,
    sampled,
    text,
    thinking,
)
from dear.prompts.listwise import ListwisePrompt, WindowPrompt
from dear.scoring.batching import pick_batch_tokens

Reading: TypeAlias = Literal["first", "constrained", "text", "attention"]
READINGS: tuple[Reading, ...] = get_args(Reading)

ONE_PASS = ("first", "attention")
"""Readings in which nothing is written."""

SLACK = 16
"""Tokens that free text may spend beyond a bare chain."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ListAnswer:
    """What a window came to.

    text:    the answer as `parse_permutation` reads it.
    order:   positions of the window, best first; None for free text, which is not read here.
    thought: what the model wrote before the ranking.
    scores:  by passage, in the window's order; `first` and `attention` alone. Comparable within
             the window.
    cut:     a thought or a text was ended for its length.
    """

    text: str
    order: tuple[int, ...] | None
    thought: str
    scores: tuple[float, ...] | None
    cut: bool
    prompt_tokens: int
    completion_tokens: int


class ListReader:
    """Reads windows in batches. An answer is that of its window alone, to the dtype's rounding.

    Threads may share it (dear.checkpoints.threads).

    reading:        "first": the identifiers' logits where an answer would begin, one pass.
                    "constrained": greedy over valid permutations, every answer is whole.
                    "text": free text.
                    "attention": by the attention that the query pays, for any causal model; it
                    reads a prompt of its own, of as many passages as fit.
                    None: what the model was taught.
    batch_tokens:   padded tokens in a batch; a default for the device where None.
    thought:        whether a thought comes first (in "constrained", "text"); as taught where None.
    thought_tokens: it is ended after so many.
    temperature:    0 is greedy; else text and thoughts are sampled, from `seed` and the window.
    answer_tokens:  at most, of a free text; where None, what a bare ranking takes and a few more.
    heads:          what each head counts in "attention"; those stored with the model where None,
                    without any all alike.
    """

    def __init__(
        self,
        model: ListModel,
        *,
        reading: Reading | None = None,
        batch_tokens: int | None = None,
        thought: bool | None = None,
        thought_tokens: int = 512,
        temperature: float = 0.0,
        seed: int = 0,
        answer_tokens: int | None = None,
        heads: HeadWeights | None = None,
    ) -> None:
        contract = model.contract
        thinks = contract.thought if thought is None else thought
        if reading is None:
            reading = _as_taught(contract, thinks)
        if reading not in READINGS:
            raise ConfigError(f"no reading {reading!r}{nearest(reading, READINGS)}")
        if thought_tokens < 1 or not 0 <= temperature < math.inf:
            raise ConfigError("thought_tokens must be 1 or more, temperature 0 or more")
        if reading in ONE_PASS and thought:
            raise ConfigError(f"the reading `{reading}` has no thought; use constrained")
        if heads is not None and reading != "attention":
            raise ConfigError("weights of heads are for the reading `attention` alone")
        self.model = model
        self.reading: Reading = reading
        self.thinks = thinks and reading not in ONE_PASS
        self.thought_tokens, self.temperature, self.seed = thought_tokens, temperature, seed
        self.answer_tokens = answer_tokens
        self.windows = WindowEncoder(
            model, (thought_tokens if self.thinks else 0) + (answer_tokens or 0)
        )
        self.decoder = Decoder(
            model.model,
            model.tokenizer.pad_token_id,
            model.device,
            pick_batch_tokens(batch_tokens, model.device),
        )
        self.in_context = (
            InContext(model, self.decoder, heads or model.heads) if reading == "attention" else None
        )
        self._stops = _stops(model)

    @property
    def name(self) -> str:
        return f"{self.model.name}#{self.reading}"

    @property
    def template(self) -> ListwisePrompt:
        """The prompt that the model was taught with."""
        return self.model.contract.template

    @property
    def identity(self) -> dict[str, Any]:
        """What an answer depends on beside its window, as JSON values."""
        heads = self.in_context.heads if self.in_context is not None else None
        return {
            "model": self.model.name,
            "revision": self.model.revision,
            "dtype": self.model.dtype,
            "reading": self.reading,
            "thought_tokens": self.thought_tokens if self.thinks else 0,
            "temperature": self.temperature,
            "seed": self.seed if self.temperature else 0,
            **({} if heads is None else {"heads": heads.fingerprint}),
            **({} if self.answer_tokens is None else {"answer_tokens": self.answer_tokens}),
        }

    def read(
        self,
        prompts: Sequence[WindowPrompt],
        on_answer: Callable[[int, ListAnswer], None] | None = None,
    ) -> list[ListAnswer]:
        """An answer for each prompt, in order. All of them are checked before the first is read.

        on_answer: called with (place, answer) as soon as one is there, in any order.
        """
        answers: dict[int, ListAnswer] = {}

        def hand_on(place: int, found: Found, tokens: int) -> None:
            answers[place] = self._answer(prompts[place], tokens, found)
            if on_answer is not None:
                on_answer(place, answers[place])

        if self.in_context is None:
            self._decode(prompts, hand_on)
        else:
            contexts = [self.in_context.encode(prompt) for prompt in prompts]
            for place, context in enumerate(contexts):
                hand_on(place, self.in_context.read(context), context.tokens)
        return [answers[place] for place in range(len(prompts))]

    def _decode(
        self, prompts: Sequence[WindowPrompt], hand_on: Callable[[int, Found, int], None]
    ) -> None:
        encoded = [self.windows.encode(prompt) for prompt in prompts]
        single = all(len(ids) == 1 for window in encoded for ids in window.chain.identifiers)
        self.decoder.run(
            [(window.ids, self._program(window)) for window in encoded],
            steps=not (self.reading == "first" and single),
            even=self.reading == "text" or (single and not self.thinks),
            done=lambda place, found: hand_on(place, found, len(encoded[place].ids)),
        )

    def _program(self, window: EncodedWindow) -> Program[Found]:
        if self.reading == "first":
            return first(window.chain)
        if self.reading == "constrained" and not self.thinks:
            return constrained(window.chain)
        pick = self._pick(window)
        if self.reading == "constrained":
            tokenizer, limit = self.model.tokenizer, self.thought_tokens - SLACK
            return thinking(tokenizer, self._stops, max(1, limit), pick, window.chain)
        whole = len(window.chain.permutation(range(len(window.chain.identifiers))))
        answer = whole + SLACK if self.answer_tokens is None else self.answer_tokens
        return text(self._stops, answer + (self.thought_tokens if self.thinks else 0), pick)

    def _pick(self, window: EncodedWindow) -> Pick:
        if not self.temperature:
            return greedy
        # of the window alone: its neighbours do not change what is drawn
        digest = hashlib.sha256(repr((self.seed, window.ids)).encode()).digest()
        return sampled(self.temperature, int.from_bytes(digest[:8], "big") >> 1)

    def _answer(self, prompt: WindowPrompt, tokens: int, found: Found) -> ListAnswer:
        written = self.model.tokenizer.decode(found.ids, skip_special_tokens=True)
        thought = ""
        if found.order is not None:
            thought = written.replace("</think>", "").replace("<think>", "").strip()
            chain = " > ".join(f"[{prompt.identifiers[i]}]" for i in found.order)
            written = f"<think>\n{thought}\n</think>\n{chain}" if self.thinks else chain
        elif "</think>" in written:
            thought = written.rpartition("</think>")[0].replace("<think>", "").strip()
        return ListAnswer(
            text=written,
            order=found.order,
            thought=thought,
            scores=found.scores,
            cut=found.cut,
            prompt_tokens=tokens,
            completion_tokens=found.tokens,
        )


def _as_taught(contract: ListwiseContract, thinks: bool) -> Reading:
    if contract.learnt == "attention":
        return "attention"
    return "constrained" if thinks or contract.learnt == "text" else "first"


def _stops(model: ListModel) -> frozenset[int]:
    """Tokens that end a text."""
    config = getattr(model.model, "generation_config", None)
    ends = getattr(config, "eos_token_id", None)
    more = ends if isinstance(ends, list) else [] if ends is None else [ends]
    return frozenset({model.tokenizer.eos_token_id, *more})
