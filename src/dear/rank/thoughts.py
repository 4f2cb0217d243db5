"""What a listwise model wrote before its rankings, kept beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dear.backends import Backend, Completion, OnAnswer
from dear.prompts.listwise import WindowPrompt


@dataclass(frozen=True, slots=True)
class Thought:
    """Why a window was ordered as it was.

    passage_ids: of the window, in the order shown.  text: what the model wrote first; it names
    them by the window's identifiers.
    """

    passage_ids: tuple[str, ...]
    text: str


class Listening:
    """A backend, and the thoughts in its answers by query id, window after window."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.thoughts: dict[str, list[Thought]] = {}

    @property
    def name(self) -> str:
        return self.backend.name

    def generate(
        self, prompts: Sequence[WindowPrompt], on_answer: OnAnswer | None = None
    ) -> list[Completion]:
        """What the backend answers."""
        completions = self.backend.generate(prompts, on_answer)
        for prompt, completion in zip(prompts, completions, strict=False):
            text = completion.reasoning or thought_of(completion.text)
            if text:
                thought = Thought(tuple(p.id for p in prompt.passages), text)
                self.thoughts.setdefault(prompt.query.id, []).append(thought)
        return completions


def thought_of(text: str) -> str:
    """What stands before the last `</think>`; "" where nothing does."""
    before, ended, _ = text.rpartition("</think>")
    return before.replace("<think>", "").strip() if ended else ""
