"""The reasoning set in its folder: our rows, DeAR-COT, chat messages, and the report."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from dear.artifacts import write_json
from dear.data.formats import CotExample, Message, write_chat, write_cot, write_lists
from dear.errors import DataError
from dear.prompts.listwise import ListwisePrompt
from dear.prompts.reasoning import FINAL, render_answer
from dear.records import ListExample

FORMAT = "dear-reason/1"
EXAMPLES, COT, MESSAGES = "examples.jsonl", "dear-cot.jsonl", "messages.jsonl"
REPORT = "report.json"


def write_set(
    folder: Path,
    examples: Iterable[ListExample],
    prompt: ListwisePrompt,
    report: Mapping[str, Any],
) -> None:
    """EXAMPLES, and the same as COT and MESSAGES under `prompt`; REPORT last, so that a folder
    that holds one is whole. DataError: not one example; the report is written nevertheless."""
    held = list(examples)
    for name in (REPORT, *(() if held else (EXAMPLES, COT, MESSAGES))):
        with contextlib.suppress(FileNotFoundError):
            (folder / name).unlink()
    if held:
        write_lists(folder / EXAMPLES, held)
        write_cot(folder / COT, (cot(example, prompt) for example in held))
        write_chat(folder / MESSAGES, (chat(example, prompt) for example in held))
    write_json(folder / REPORT, {"format": FORMAT, **report})
    if not held:
        raise DataError.at(folder, None, f"no example was kept; {REPORT} says why")


def answer_text(example: ListExample, prompt: ListwisePrompt) -> str:
    """What the model should answer, in the form that the prompt asks for."""
    return render_answer(
        example.order,
        prompt.identifiers,
        thought=example.thought,
        heading=FINAL in prompt.after,
    )


def chat(example: ListExample, prompt: ListwisePrompt) -> Iterator[Message]:
    """The prompt's turns and the answer."""
    for role, text in prompt.render(example.query, example.passages).messages:
        yield Message(role=role, content=text)
    yield Message(role="assistant", content=answer_text(example, prompt))


def cot(example: ListExample, prompt: ListwisePrompt) -> CotExample:
    """The same as a DeAR-COT row; turns before the last one are its history."""
    turns = list(prompt.render(example.query, example.passages).messages)
    system = turns.pop(0)[1] if turns[0][0] == "system" else ""
    spoken = [text for _, text in turns]
    return CotExample(
        system=system,
        instruction=spoken[-1],
        output=answer_text(example, prompt),
        history=tuple(zip(spoken[:-1:2], spoken[1::2], strict=True)),
    )
