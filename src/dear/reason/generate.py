"""Answers of a language model to questions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from dear.backends import Backend, Completion
from dear.errors import BackendError
from dear.prompts.listwise import ListwisePrompt
from dear.prompts.reasoning import numbered, split_answer
from dear.reason.sample import Question
from dear.reason.select import Answer

BATCH = 64
"""Questions that a backend is handed at once."""

Progress = Callable[[int, int], None]


def ask(
    questions: Sequence[Question],
    backend: Backend,
    prompt: ListwisePrompt,
    *,
    batch: int = BATCH,
    progress: Progress | None = None,
) -> Iterator[tuple[Question, Completion]]:
    """Each question with the completion, in order. BackendError: what the backend raises.

    Nothing is kept here: a backend behind a ledger asks nothing twice.
    """
    for start in range(0, len(questions), batch):
        asked = questions[start : start + batch]
        completions = backend.generate([prompt.render(q.query, q.passages) for q in asked])
        if len(completions) != len(asked):
            raise BackendError(
                f"{backend.name}: {len(completions)} answers to {len(asked)} prompts"
            )
        yield from zip(asked, completions, strict=True)
        if progress is not None:
            progress(start + len(asked), len(questions))


def answer(
    question: Question, completion: Completion, prompt: ListwisePrompt, source: str
) -> Answer:
    """For the selection. The thought is what stands before the ranking; where nothing does, what
    the backend gives apart from the answer."""
    kind = prompt.identifiers
    apart = numbered(completion.reasoning.strip(), kind)
    return Answer(
        question=question,
        text=completion.text,
        thought=split_answer(completion.text, kind) or apart,
        identifiers=kind,
        cut=completion.finish == "length",
        source=source,
    )
