"""A language model's answers to lists, finished work kept in an append-only file."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from dear import locks
from dear.artifacts import folder_to_disk
from dear.backends import Backend, Completion
from dear.errors import BackendError, DataError
from dear.prompts.listwise import ListwisePrompt
from dear.prompts.reasoning import numbered, split_answer
from dear.reason.sample import Question
from dear.reason.select import Answer

logger = logging.getLogger(__name__)


class Drafts:
    """Key → JSON object; use `open_drafts`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rows: dict[str, Mapping[str, Any]] = {}
        self._read()

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, key: object) -> bool:
        return key in self._rows

    def __getitem__(self, key: str) -> Mapping[str, Any]:
        return self._rows[key]

    def append(self, rows: Mapping[str, Mapping[str, Any]]) -> None:
        """Rows that are not there yet, on the disk when this returns."""
        new = {key: row for key, row in rows.items() if key not in self._rows}
        lines = [json.dumps({"key": k, **r}, ensure_ascii=False) for k, r in new.items()]
        try:
            is_new = not self.path.exists()
            with self.path.open("ab") as file:
                file.write("".join(f"{line}\n" for line in lines).encode())
                file.flush()
                os.fsync(file.fileno())
            if is_new:
                folder_to_disk(self.path.parent)
        except OSError as error:
            problem = f"cannot be written: {error.strerror}; the same command goes on from here"
            raise DataError.at(self.path, None, problem) from None
        self._rows.update(new)

    def _read(self) -> None:
        """What is there; a last line that a killed process left unfinished is cut off."""
        if not self.path.exists():
            return
        data = self.path.read_bytes()
        whole = data.rfind(b"\n") + 1
        for number, line in enumerate(data[:whole].splitlines(), 1):
            try:
                row = json.loads(line)
                self._rows.setdefault(row.pop("key"), row)
            except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
                problem = f"is no draft; delete the line and run the command again: {line[:40]!r}"
                raise DataError.at(self.path, number, problem) from None
        if whole < len(data):
            logger.info("%s: an unfinished last line is dropped", self.path)
            with self.path.open("rb+") as file:
                file.truncate(whole)


@contextlib.contextmanager
def open_drafts(path: Path) -> Iterator[Drafts]:
    """The drafts in `path`, for this process alone. DataError: another one writes them, a line
    that is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        if not locks.lock(lock.fileno()):
            raise DataError.at(path.parent, None, "another process is writing here")
        yield Drafts(path)


BATCH = 64
"""Questions that a backend is handed at once."""

Cut: TypeAlias = Callable[[Sequence[Question]], list[list[Question]]]
"""Questions → those that go together, in their order."""


def chunks(questions: Sequence[Question], size: int) -> list[list[Question]]:
    return [list(questions[i : i + size]) for i in range(0, len(questions), size)]


Progress = Callable[[int, int], None]


def ask(
    questions: Sequence[Question],
    backend: Backend,
    prompt: ListwisePrompt,
    *,
    cut: Cut = partial(chunks, size=BATCH),
    progress: Progress | None = None,
) -> Iterator[tuple[Question, Completion]]:
    """Each question with the completion, in order. BackendError: what the backend raises.

    cut: what the backend is handed at once.
    Nothing is kept here: a backend behind a ledger asks nothing twice.
    """
    done = itertools.count(1)

    def heard(_: int, __: Completion) -> None:
        if progress is not None:
            progress(next(done), len(questions))

    for asked in cut(questions):
        completions = backend.generate([prompt.render(q.query, q.passages) for q in asked], heard)
        if len(completions) != len(asked):
            raise BackendError(
                f"{backend.name}: {len(completions)} answers to {len(asked)} prompts"
            )
        yield from zip(asked, completions, strict=True)


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
