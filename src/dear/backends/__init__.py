"""Prompts to completions. What a model is, and where it runs, is known only here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from dear.errors import ConfigError, nearest
from dear.prompts.listwise import WindowPrompt


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """What came back for one prompt.

    finish: "stop", or "length" where the answer was cut off.
    prompt_tokens, completion_tokens: None where they are not known.
    """

    text: str
    finish: str = "stop"
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class Backend(Protocol):
    """Answers prompts. Retries and rate limits are its own business."""

    @property
    def name(self) -> str:
        """What a run's note calls it."""
        ...

    def generate(self, prompts: Sequence[WindowPrompt]) -> list[Completion]:
        """A completion for each prompt, in order. BackendError: one can not be answered."""
        ...


def _replay(where: str) -> Backend:
    from dear.backends.replay import Replay

    return Replay(where)


BACKENDS: dict[str, Callable[[str], Backend]] = {
    # answers that were recorded: replay:FILE
    "replay": _replay,
}


def open_backend(name: str) -> Backend:
    """`KIND:WHERE`, KIND one of BACKENDS. ConfigError: anything else."""
    kind, colon, where = name.partition(":")
    if not colon or not where:
        raise ConfigError(f"backend {name!r}: expected KIND:WHERE, such as replay:FILE")
    if kind not in BACKENDS:
        raise ConfigError(f"unknown backend {kind!r}{nearest(kind, BACKENDS)}")
    return BACKENDS[kind](where)
