"""The systems that a distillation measures: what each is, and the commands that use it."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from dear.data.collections import Collection
from dear.recipes import DistillRecipe
from dear.retrieve.table import RetrieverSpec
from dear.steps.distilled import (
    CONTROL,
    FIRST,
    FUSED,
    NO_LABELS,
    STUDENT,
    STUDENT_FUSED,
    TEACHER,
    ZERO_SHOT,
    ZERO_SHOT_FUSED,
)
from dear.steps.first_stages import DENSE, HYBRID, hybrid_teaches


@dataclass(frozen=True, kw_only=True, slots=True)
class Systems:
    """asked: the collection that a user named.  folder: of the distillation.
    others: system → public model that is measured beside the rest."""

    asked: Collection
    recipe: DistillRecipe
    folder: Path
    first_stage: RetrieverSpec
    trains_teacher: bool
    others: Mapping[str, str]

    def names(self) -> dict[str, str]:
        """System → what it is, as a person reads it."""
        weight, parts = self.recipe.teacher.first_stage, self.first_stage.parts
        fused = f" + {weight:g} · {'hybrid' if parts else 'BM25'}" if weight else ""
        dense = _short(parts[1].model) if parts else ""
        hybrid = f"hybrid of {dense} + {weight:g} · BM25"
        model = _short(self.recipe.teacher.zero_shot)
        teacher = ("teacher" if self.trains_teacher else model) + fused
        others = {system: _short(one) for system, one in self.others.items()}
        return others | {
            FIRST: "BM25",
            DENSE: f"dense, {dense}",
            HYBRID: hybrid,
            ZERO_SHOT: model,
            ZERO_SHOT_FUSED: model + fused,
            TEACHER: hybrid if self._hybrid_is_teacher else teacher,
            STUDENT: "student",
            STUDENT_FUSED: "student" + fused,
            CONTROL: CONTROL,
            **{system + FUSED: name + fused for system, name in others.items()},
        }

    def commands(self, systems: Iterable[str]) -> dict[str, tuple[str, ...]]:
        """System → how it is used: on a run, and on a file of passages."""
        name = shlex.quote(str(self.asked.folder or self.asked.name))
        test = next((s for s in ("test", "dev") if self.asked.has_judgements(s)), None)
        retrieve = f"dear retrieve {name}{f' --split {test}' if test else ''}"
        weight = self.recipe.teacher.first_stage
        bm25 = (f"{retrieve} --output bm25.trec",)
        found: dict[str, tuple[str, ...]] = {FIRST: bm25}
        run, retrieved = "bm25.trec", bm25
        if self.first_stage.parts:
            dense = shlex.quote(self.first_stage.parts[1].name)
            parts = f"--retriever hybrid --parts bm25,{dense} --weights {weight:g},1"
            run, retrieved = "hybrid.trec", (f"{retrieve} {parts} --output hybrid.trec",)
            found[DENSE] = (f"{retrieve} --retriever {dense} --output dense.trec",)
            found[HYBRID] = (*retrieved, f'dear retrieve {name} {parts} --query "your question"')
        if self._hybrid_is_teacher:
            found[TEACHER] = found[HYBRID]
        models = self._models()
        for system in set(systems) - set(found):
            model = f"--model {shlex.quote(models[system.removesuffix(FUSED)])}"
            fused = weight and (system == TEACHER or system.endswith(FUSED))
            rank = f"dear rank {name} --run {run} {model}"
            rank += f" --fuse {weight:g}" if fused else ""
            rank += "" if self.asked.documents is None else " --aggregate max"
            one = () if fused else (f'dear rerank "your query" passages.txt {model}',)
            found[system] = (*retrieved, f"{rank} --output ranked.trec", *one)
        return found

    def _models(self) -> dict[str, str]:
        """System → its model, as `dear rank --model` names it."""
        zero_shot = self.recipe.teacher.zero_shot
        return {
            **self.others,
            ZERO_SHOT: zero_shot,
            TEACHER: f"biencoder:{self.folder / 'teacher'}" if self.trains_teacher else zero_shot,
            STUDENT: trained_model(self.recipe, self.folder / "student"),
            CONTROL: trained_model(self.recipe, self.folder / NO_LABELS),
        }

    @property
    def _hybrid_is_teacher(self) -> bool:
        return not self.trains_teacher and hybrid_teaches(self.recipe, self.first_stage)


def trained_model(recipe: DistillRecipe, folder: Path) -> str:
    """A student in `folder`, as `dear rank --model` names it."""
    return f"{'biencoder:' if recipe.student.kind == 'biencoder' else ''}{folder}"


def _short(model: str) -> str:
    """A model's name without how it is read and who owns it."""
    return Path(model.rpartition(":")[2]).name
