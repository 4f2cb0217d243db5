"""From questions to answers, with progress: what `dear reason` does between plan and selection."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dear.backends import Keepable
from dear.cli.output import count
from dear.cli.progress import progress
from dear.digests import Input, lines_digest
from dear.reason.generate import open_drafts

if TYPE_CHECKING:
    from dear.backends import Backend, Completion
    from dear.data.collections import Collection
    from dear.data.label_texts import LabelCheck
    from dear.data.labels import Labels
    from dear.prompts.listwise import ListwisePrompt
    from dear.reason.extractive import Evidence
    from dear.reason.generate import Drafts
    from dear.reason.sample import Question
    from dear.reason.select import Answer
    from dear.scoring.opening import PairModel

DRAFTS = "drafts.jsonl"


@dataclass
class Work:
    """generator: for the report.  inputs: what the set is made from.  lines: for the summary.

    new: examples that were made now, in `seconds`.
    """

    folder: Path
    teacher: Callable[[], PairModel]
    generator: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, Input] = field(default_factory=dict)
    new: int = 0
    seconds: float = 0.0
    lines: list[str] = field(default_factory=list)

    def labels(
        self, folders: Sequence[str], weights: Sequence[float], opened: Collection
    ) -> tuple[Labels | None, LabelCheck | None]:
        """One order out of the labels in these folders, and what compares it with texts."""
        from dear.data.label_texts import LabelCheck
        from dear.data.labels import ensemble, labels_input, read_labels

        if not folders:
            return None, None
        members = [read_labels(folder) for folder in folders]
        found = members[0]
        if len(members) > 1:
            found = ensemble(members, weights or (1.0,) * len(members))
        self.inputs["labels"] = Input(
            lines_digest(labels_input(Path(folder)).digest for folder in folders),
            ", ".join(folders),
        )
        self.generator["labels"] = [
            {"teacher": s.teacher, "revision": s.revision, "fingerprint": s.fingerprint}
            for s in found.stamps
        ]
        return found, LabelCheck(found, folders, opened.name)

    def extract(self, questions: Sequence[Question], evidence: Evidence) -> list[Answer]:
        """Order and evidence by the teacher."""
        from dear.reason.extractive import extract

        self.generator["kind"] = "extractive"
        with self._scoring("reasoning") as (teacher, drafts, shown):
            return extract(questions, teacher, drafts, evidence, shown)

    def ask(
        self,
        questions: Sequence[Question],
        backend: Backend,
        template: ListwisePrompt,
        *,
        ledger: Path,
        teacher: bool,
    ) -> list[Answer]:
        """Thought and order by a language model; the teacher, if any, is asked what it thinks."""
        from dear.reason.generate import answer, ask

        checked = self._scored(questions) if teacher else questions
        self.generator |= {"kind": "llm", "model": backend.name}
        started = time.perf_counter()
        with _kept(backend, ledger) as asked, progress("asking", "questions") as shown:
            found = list(ask(checked, asked, template, progress=shown))
        self.new = sum(not completion.cached for _, completion in found)
        self.seconds = time.perf_counter() - started
        self._count([completion for _, completion in found], backend)
        return [answer(question, c, template, backend.name) for question, c in found]

    def _count(self, completions: Sequence[Completion], backend: Backend) -> None:
        """What the answers took, whenever they were asked for."""

        price = backend.price if isinstance(backend, Keepable) else None
        tokens = [
            sum(getattr(c, name) or 0 for c in completions)
            for name in ("prompt_tokens", "completion_tokens")
        ]
        cost = None if price is None else price.cost(*tokens)
        self.generator |= {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "cost": cost}
        now = [c for c in completions if not c.cached]
        kept = len(completions) - len(now)
        paid = "" if cost is None else f", ${cost:.4f}"
        self.lines.append(
            f"{count(len(now), 'answer')} asked for{f', {kept:,} kept from before' if kept else ''}"
            f"; {tokens[0]:,} tokens in, {tokens[1]:,} out{paid} in all"
        )

    def read(self, source: str, *, teacher: bool) -> list[Answer]:
        """What others wrote; the teacher, if any, is asked what it thinks."""
        from dear.reason.files import read_answers

        answers = list(read_answers(source))
        self.generator["kind"] = "read"
        if not teacher:
            return answers
        scored = iter(self._scored([a.question for a in answers if a.question is not None]))
        return [a if a.question is None else replace(a, question=next(scored)) for a in answers]

    def _scored(self, questions: Sequence[Question]) -> list[Question]:
        from dear.reason.extractive import with_scores

        with self._scoring("scoring") as (teacher, drafts, shown):
            return with_scores(questions, teacher, drafts, shown)

    @contextmanager
    def _scoring(
        self, what: str
    ) -> Iterator[tuple[PairModel, Drafts, Callable[[int, int, int], None]]]:
        from dear.scoring.revisions import scoring_inputs

        with open_drafts(self.folder / DRAFTS) as drafts, progress(what, "examples") as report:
            teacher, before = self.teacher(), len(drafts)
            self.inputs |= scoring_inputs(teacher)
            self.generator["teacher"] = {
                "teacher": teacher.name,
                "revision": teacher.revision,
                "fingerprint": teacher.fingerprint,
            }
            started = time.perf_counter()
            yield teacher, drafts, lambda done, total, there: report(done, total, before=there)
            self.new, self.seconds = len(drafts) - before, time.perf_counter() - started


@contextmanager
def _kept(backend: Backend, path: Path) -> Iterator[Backend]:
    """The backend behind its ledger; as it is where its answers are not worth keeping."""

    if not isinstance(backend, Keepable):
        yield backend
        return
    from dear.backends.ledger import Ledger

    with Ledger(backend, path) as ledger:
        yield ledger
