"""A causal language model in this process: local:MODEL, local:MODEL#READING."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from dear.backends.backend import Completion, OnAnswer, Price
from dear.checkpoints.contract import DType
from dear.errors import ConfigError, nearest
from dear.listwise.loading import load_list_model
from dear.listwise.reader import READINGS, ListAnswer, ListReader, Reading
from dear.prompts.listwise import ListwisePrompt, WindowPrompt


class Reads(Protocol):
    """ListReader, or the listwise side of a backbone."""

    @property
    def name(self) -> str: ...
    @property
    def template(self) -> ListwisePrompt: ...
    @property
    def identity(self) -> Mapping[str, Any]: ...
    def read(
        self,
        prompts: Sequence[WindowPrompt],
        on_answer: Callable[[int, ListAnswer], None] | None = None,
    ) -> list[ListAnswer]:
        """An answer for each prompt, in order."""
        ...


class Local:
    """Answers from a model that is held here, all windows of a call in batches.

    reader: what reads the windows.
    template: the prompt that the model was taught with; ask it in this one.
    """

    def __init__(self, reader: Reads) -> None:
        self.reader = reader

    @property
    def name(self) -> str:
        return f"local:{self.reader.name}"

    @property
    def template(self) -> ListwisePrompt:
        return self.reader.template

    @property
    def identity(self) -> Mapping[str, Any]:
        return {"kind": "local", **self.reader.identity}

    @property
    def price(self) -> Price | None:
        return None

    def generate(
        self, prompts: Sequence[WindowPrompt], on_answer: OnAnswer | None = None
    ) -> list[Completion]:
        """A completion for each prompt, in order; the same prompts give the same ones.

        on_answer: called with (place, completion) as soon as one is there, in any order.
        """

        def hand_on(place: int, answer: ListAnswer) -> None:
            if on_answer is not None:
                on_answer(place, _completion(answer))

        return [_completion(answer) for answer in self.reader.read(prompts, hand_on)]


def open_local(
    where: str | Path,
    *,
    dtype: DType = "auto",
    device: str = "auto",
    batch_tokens: int | None = None,
    revision: str | None = None,
    **options: Any,
) -> Local:
    """MODEL or MODEL#READING. revision: of a hub id. options: those of ListReader."""
    name, reading = split_reading(where)
    if reading is not None:
        options["reading"] = reading
    model = load_list_model(name, dtype=dtype, device=device, revision=revision)
    return Local(ListReader(model, batch_tokens=batch_tokens, **options))


def split_reading(where: str | Path) -> tuple[str, Reading | None]:
    """(MODEL, READING) of MODEL#READING. ConfigError: no such reading."""
    name, mark, reading = str(where).rpartition("#")
    if not mark or Path(where).exists():
        return str(where), None
    if reading not in READINGS:
        raise ConfigError(f"local:{where}: no reading {reading!r}{nearest(reading, READINGS)}")
    return name, reading


def _completion(answer: ListAnswer) -> Completion:
    return Completion(
        text=answer.text,
        finish="length" if answer.cut else "stop",
        prompt_tokens=answer.prompt_tokens,
        completion_tokens=answer.completion_tokens,
        order=answer.order,
        scores=answer.scores,
    )


def open_local_backend(_kind: str, where: str) -> Local:
    """`open_local`, for BACKENDS."""
    return open_local(where)
