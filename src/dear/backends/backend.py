"""What answers prompts: the interface of all backends."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

from dear.prompts.listwise import WindowPrompt

MOST_TOKENS = 10**9
"""A count above this is none: not known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """What came back for one prompt. Half a surrogate pair, which no file could hold, is U+FFFD.

    finish: "stop", "length" where the answer was cut off, "content_filter" where it was withheld;
        else what the server says.
    prompt_tokens, completion_tokens: None where they are not known, or can not be true.
    reasoning: the thought, where a server returns it apart from the text.
    cached: nothing was asked for it, a ledger had it.
    order: positions of the window, best first, where the backend decided on them itself: the text
        need not be parsed.
    scores: of each passage in the window's order, where the backend computed any; comparable
        within the window.
    """

    text: str
    finish: str = "stop"
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    reasoning: str = ""
    cached: bool = False
    order: tuple[int, ...] | None = None
    scores: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("text", "finish", "reasoning"):
            value = getattr(self, name)
            try:
                value.encode("utf-8")
            except UnicodeEncodeError:
                whole = value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
                object.__setattr__(self, name, whole)
        for name in ("prompt_tokens", "completion_tokens"):
            count = getattr(self, name)
            if count is not None and not 0 <= count <= MOST_TOKENS:
                object.__setattr__(self, name, None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Price:
    """Dollars for a million tokens, in and out."""

    tokens_in: float
    tokens_out: float

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        """In dollars."""
        return (prompt_tokens * self.tokens_in + completion_tokens * self.tokens_out) / 1e6


OnAnswer: TypeAlias = Callable[[int, Completion], None]
"""Called with (position of the prompt, its answer)."""


class Backend(Protocol):
    """Answers prompts. Retries and rate limits are its own business."""

    @property
    def name(self) -> str:
        """What a run's note calls it."""
        ...

    def generate(
        self, prompts: Sequence[WindowPrompt], on_answer: OnAnswer | None = None
    ) -> list[Completion]:
        """A completion for each prompt, in order.

        on_answer: called for each as soon as it is there, in any order, from one thread.
        BackendError: one can not be answered; the others were asked, and reported, all the same.
        """
        ...


@runtime_checkable
class Keepable(Backend, Protocol):
    """A backend whose answers are worth keeping: a ledger can stand before it."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """What an answer depends on besides the messages, as JSON values. No host, no keys."""
        ...

    @property
    def price(self) -> Price | None:
        """None where it is not known."""
        ...


@runtime_checkable
class Batched(Keepable, Protocol):
    """A backend that takes prompts now and answers them in hours."""

    def submit(self, prompts: Sequence[WindowPrompt], ids: Sequence[str], nonce: str) -> str:
        """The name of the batch that was made. nonce: what `find` knows it by."""
        ...

    def find(self, nonce: str) -> str | None:
        """The batch that was submitted with this nonce, if there is one."""
        ...

    def collect(self, batch: str, ids: Collection[str]) -> Iterator[tuple[str, Completion | str]]:
        """Waits for the batch; (id, the answer, or why there is none) for those of `ids` that it
        names, each once.

        BackendError: it failed as a whole.
        """
        ...
